"""``compatbench new-method``: writes a method file that works as it is."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic

_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
console = Console()
_TEMPLATE = Path(__file__).with_name("new_method.py.txt")


def new_method(
    name: Annotated[str, typer.Argument(help="Such as 'my_method'.", show_default=False)],
) -> None:
    """Write a commented method file that works as it is, to be made into yours.

    It goes to methods/ in a checkout, and to this folder elsewhere.
    """
    checkout = find_checkout(Path.cwd())
    _check_name(name, inside=checkout is not None)
    path = (checkout / "methods" if checkout else Path()) / f"{name}.py"
    if path.exists():
        raise CompatbenchError(f"{path} exists; choose another name, or delete it first")
    write_atomic(path, fill_template(name).encode())
    shown = path.relative_to(checkout) if checkout else path
    wanted = name if checkout else f"./{path}"
    for line in (
        f"wrote {shown}: a method that works; make it yours",
        f"  compatbench check {wanted}",
        f"  compatbench run --suite smoke --methods {wanted}",
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def find_checkout(folder: Path) -> Path | None:
    """The repository's root, if a folder is it or lies in it."""
    for root in (folder, *folder.parents):
        if all(
            (root / path).is_file()
            for path in ("methods/__init__.py", "benchmark/compatbench/__init__.py")
        ):
            return root
    return None


def fill_template(name: str) -> str:
    """The text of a new method file."""
    words = name.split("_")
    title = " ".join(word.capitalize() for word in words if word)
    text = _TEMPLATE.read_text(encoding="utf-8")
    return (
        text.replace("NAME", name).replace("TITLE", title).replace("CLASS", title.replace(" ", ""))
    )


def _check_name(name: str, inside: bool) -> None:
    from compatbench.method.registry import builtin_methods

    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise CompatbenchError(
            f"'{name}' cannot be a method's name; use small letters, digits and '_', a letter "
            "first, as in 'my_method'"
        )
    registry = builtin_methods()
    if name in registry.classes or name in registry.broken:
        raise CompatbenchError(f"a method is named '{name}' already; choose another name")
    if not inside and find_spec(name) is not None:
        raise CompatbenchError(
            f"a file {name}.py would hide the module '{name}' of this Python; choose another name"
        )
