"""``compatbench new-method``: a method file, and its formula, to start from."""

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

_METHOD = Path(__file__).with_name("new_method.py.txt")
_FORMULA = Path(__file__).with_name("new_method_formula.py.txt")


@app.command("new-method", rich_help_panel=AUTHORS)
def new_method(
    name: Annotated[str, typer.Argument(help="The method's name, such as 'my_method'.")],
) -> None:
    """Write a commented method file that works as it is, to start from.

    In a checkout it writes methods/NAME.py and tests/methods/formulas/NAME.py, which compares the
    method with its formula. Together they are a pull request. Elsewhere it writes ./NAME.py.
    """
    made = (name, class_name(name))
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", name) or any(map(keyword.iskeyword, made)):
        raise CompatbenchError(
            f"'{name}' cannot be a method's name; use small letters, digits and '_', a letter "
            "first, as in 'my_method', but no Python keyword"
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
    argument = name if checkout else f"./{name}.py"
    folder = checkout or Path()
    method = Path("methods" if checkout else "", f"{name}.py")
    formula = Path("tests", "methods", "formulas", f"{name}.py")
    files = {method: fill_template(name)}
    if checkout:
        files[formula] = fill_template(name, _FORMULA)
    for path in files:
        require_new(folder / path, "choose another name")
    for path, text in files.items():
        write_atomic(folder / path, text.encode())
    say(escape(f"wrote {method}: a method that works; make it yours"))
    if checkout:
        say(escape(f"wrote {formula}: its formula, with which a test compares it"))
    say(f"  compatbench check {argument}")
    say(f"  compatbench run --suite smoke --methods {argument}")
    if checkout:
        say(escape(f"  pytest {formula}"))


def find_checkout(folder: Path) -> Path | None:
    """Return the root of the checkout that contains a folder; None if there is none."""
    files = ("methods/__init__.py", "benchmark/compatbench/__init__.py")
    for root in (folder, *folder.parents):
        if all((root / file).is_file() for file in files):
            return root
    return None


def fill_template(name: str, template: Path = _METHOD) -> str:
    """Return the text of a new method file, or of its formula."""
    text = template.read_text(encoding="utf-8").replace("NAME", name)
    return text.replace("TITLE", _title(name)).replace("CLASS", class_name(name))


def class_name(name: str) -> str:
    """Return the name of a new method's class, such as ``MyMethod``."""
    return _title(name).replace(" ", "")


def _title(name: str) -> str:
    words = name.replace("_", " ").split()
    return " ".join(word.capitalize() for word in words)
