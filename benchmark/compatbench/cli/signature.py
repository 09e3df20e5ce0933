"""Signatures and docstrings of functions and records, read from their source.

Help and completion need those of every command; to import the functions would load PyTorch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import cleandoc

from compatbench import plugins
from compatbench.plugins import REQUIRED, Option

COMPUTED = object()  # a default that is more than a value
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):\n", re.MULTILINE)
_ENTRY = re.compile(r"^    ((?:\w+, )*\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
_REFERENCE = re.compile(r"^as (?:for|in|of) ``(\w+)``")


@dataclass(frozen=True)
class Signature:
    """What a docstring says before its sections, and the parameters, or a record's fields, by name.

    Of these it has annotation, default (a value, ``REQUIRED`` or ``COMPUTED``) and help.
    """

    text: str
    parameters: Mapping[str, Option]


@cache
def read_signature(place: str) -> Signature:
    """The signature of a function or a record, at a place or of a name in ``compatbench``."""
    place = plugins.functions().get(place, place)
    definition = _find_definition(place)
    docstring = ast.get_docstring(definition) or ""
    text, *sections = _SECTION.split(cleandoc(docstring))
    helps = {
        name: _expand(name, " ".join(entry.split()))
        for title, body in zip(sections[::2], sections[1::2], strict=True)
        if title in ("Args", "Attributes")
        for names, entry in _ENTRY.findall(body)
        for name in names.split(", ")
    }
    parameters = {
        name: Option(
            help=helps.get(name, ""),
            annotation=ast.unparse(annotation) if annotation else "str",
            default=default,
        )
        for name, annotation, default in _parts(definition)
    }
    return Signature(plain(text.strip()), parameters)


def plain(text: str) -> str:
    """Text of a docstring as a terminal shows it: ``code`` is in quotes."""
    return re.sub(r"``(.*?)``", r"'\1'", text)


def _expand(name: str, entry: str) -> str:
    """An entry of a docstring, with what another function says of a parameter, if it says so."""
    reference = _REFERENCE.match(entry)
    if reference is None or reference[1] not in plugins.functions():
        return plain(entry)
    other = read_signature(reference[1]).parameters.get(name)
    return (other.help if other else "") + plain(entry[reference.end() :].removeprefix("."))


def _find_definition(place: str) -> ast.FunctionDef | ast.ClassDef:
    module, _, name = place.partition(":")
    path = plugins.ROOT.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    lines = path.read_text(encoding="utf-8").splitlines()
    heads = (f"def {name}(", f"class {name}:", f"class {name}(")
    first = next(number for number, line in enumerate(lines) if line.startswith(heads))
    # Up to the next line that begins a statement; that of a closing bracket does not.
    ends = (n for n, line in enumerate(lines) if n > first and line[:1] not in ("", " ", ")"))
    [definition] = ast.parse("\n".join(lines[first : next(ends, None)])).body
    assert isinstance(definition, (ast.FunctionDef, ast.ClassDef))
    return definition


def _parts(
    definition: ast.FunctionDef | ast.ClassDef,
) -> Iterator[tuple[str, ast.expr | None, object]]:
    """Name, annotation and default of every parameter or field."""
    if isinstance(definition, ast.ClassDef):
        for field in definition.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield field.target.id, field.annotation, _value(field.value)
        return
    arguments = definition.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    positional = len(named) - len(arguments.kwonlyargs)
    defaults = [None] * (positional - len(arguments.defaults)) + arguments.defaults
    for argument, default in zip(named, [*defaults, *arguments.kw_defaults], strict=True):
        yield argument.arg, argument.annotation, _value(default)


def _value(default: ast.expr | None) -> object:
    if default is None:
        return REQUIRED
    try:
        return ast.literal_eval(default)
    except ValueError:
        return COMPUTED
