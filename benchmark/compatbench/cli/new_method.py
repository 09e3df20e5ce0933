"""``compatbench new-method``: a method file to start from."""

import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from compatbench.cli.groups import AUTHORS, app
from compatbench.cli.output import say
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.kinds import require_new

_TEMPLATE = Path(__file__).with_name("new_method.py.txt")


@app.command("new-method", rich_help_panel=AUTHORS)
def new_method(
    name: Annotated[str, typer.Argument(help="The method's name, such as 'my_method'.")],
) -> None:
    """Write a commented method file that works as it is, to start from.

    It is written to methods/ in a checkout, and to the current folder elsewhere.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", name) or keyword.iskeyword(name):
        raise CompatbenchError(
            f"'{name}' cannot be a method's name; use small letters, digits and '_', a letter "
            "first, as in 'my_method'"
        )
    from compatbench.method.registry import builtin_methods

    registry = builtin_methods()
    checkout = find_checkout(Path.cwd())
    if name in registry.classes or name in registry.broken:
        raise CompatbenchError(f"a method is named '{name}' already; choose another name")
    if not checkout and find_spec(name) is not None:
        raise CompatbenchError(
            f"a file {name}.py would hide the module '{name}' of this Python; choose another name"
        )
    folder = checkout / "methods" if checkout else Path()
    path = folder / f"{name}.py"
    require_new(path, "choose another name")
    write_atomic(path, fill_template(name).encode())
    if checkout:
        shown = path.relative_to(checkout)
        argument = name
    else:
        shown = path
        argument = f"./{path}"
    say(escape(f"wrote {shown}: a method that works; make it yours"))
    say(f"  compatbench check {argument}")
    say(f"  compatbench run --suite smoke --methods {argument}")


def find_checkout(folder: Path) -> Path | None:
    """Return the root of the checkout that contains a folder; None if there is none."""
    files = ("methods/__init__.py", "benchmark/compatbench/__init__.py")
    for root in (folder, *folder.parents):
        if all((root / file).is_file() for file in files):
            return root
    return None


def fill_template(name: str) -> str:
    """Return the text of a new method file."""
    words = name.replace("_", " ").split()
    title = " ".join(word.capitalize() for word in words)
    text = _TEMPLATE.read_text(encoding="utf-8").replace("NAME", name).replace("TITLE", title)
    return text.replace("CLASS", title.replace(" ", ""))
