"""Write a class that was defined in a notebook or a script to a file, which workers can import.

The file has the source of the class, of the functions and classes beside it that it uses, and the
imports of the other names that it uses.
"""

from __future__ import annotations
import __future__

import dis
import inspect
import linecache
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from compatbench.data.cards.names import NAME
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.method import Method, MethodCard
from compatbench.method.identity import class_file

_PLAIN = (type(None), bool, int, float, str)
# The instructions of Python's compiler that look up a name in the module.
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_PUBLIC = ("compatbench.method", "compatbench.method.trained", "compatbench")
_HEADER = "# Written by compatbench: the source of a class that was given to it.\n"


def write_classes(methods: str | type | Sequence[str | type], folder: Path) -> str | list[str]:
    """Return methods with the path of a file in place of each class, which is written there.

    The file has the name of the method. Its content is part of the method's key.

    Raises:
        CompatbenchError: a class is no method, its source cannot be read, or a name that it uses
            cannot be written.
    """
    if isinstance(methods, str):
        return methods
    listed = [methods] if isinstance(methods, type) else methods
    names = []
    for method in listed:
        if isinstance(method, type):
            method = str(_write_class(method, folder))
        names.append(method)
    return names


def _write_class(cls: type, folder: Path) -> Path:
    card = vars(cls).get("card")
    if not (issubclass(cls, Method) and isinstance(card, MethodCard)):
        raise CompatbenchError(
            f"class {cls.__name__} is no method: a Method with a card of its own"
        )
    if sys.modules[cls.__module__] is not sys.modules["__main__"]:
        return class_file(cls)
    if not re.fullmatch(NAME, card.name):
        raise CompatbenchError(f"class {cls.__name__}: a method cannot be named {card.name!r}")
    path = folder / f"{card.name}.py"
    source = class_source(cls)
    if not path.is_file() or path.read_text("utf-8") != source:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, source.encode())
    return path


def is_written(file: Path) -> bool:
    """Return True for a file that ``write_classes`` has written, or that was deleted since."""
    if not file.is_file():
        return True
    with file.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline() == _HEADER


def class_source(cls: type) -> str:
    """Return a Python file that defines the class; errors are those of ``write_class``."""
    module = sys.modules[cls.__module__]
    writer = _Writer(cls, module)
    writer.add_object(cls)
    parts = [_HEADER]
    if _postpones_annotations(cls):
        parts.append("from __future__ import annotations\n")
    parts += sorted(writer.imports)
    parts += ["", *writer.constants, *writer.sources]
    return "\n".join(parts)


class _Writer:
    """Collects the parts of the file of a class."""

    def __init__(self, cls: type, module: ModuleType) -> None:
        self._class = cls
        self._module = module
        self._seen: set[str] = set()
        self.imports: set[str] = set()
        self.constants: list[str] = []
        self.sources: list[str] = []  # each after those that it uses

    def add_object(self, value: type | FunctionType) -> None:
        """Add the source of a class or function of this module, after everything that it uses."""
        self._seen.add(value.__name__)
        source = _read_source(value)
        for name in _names_used(source):
            if name in vars(self._module) and name not in self._seen:
                self._seen.add(name)
                self._add_value(name, vars(self._module)[name])
        self.sources.append(f"\n{source}")

    def _add_value(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType):
            alias = "" if name == value.__name__ else f" as {name}"
            self.imports.add(f"import {value.__name__}{alias}")
            return
        is_definition = isinstance(value, (type, FunctionType))
        if is_definition and value.__module__ == self._module.__name__:
            if value.__name__ != name:
                raise self._error(f"'{name}', another name of '{value.__name__}'; use that")
            self.add_object(value)
            return
        owner = _find_owner(name, value, self._module)
        if owner is not None:
            self.imports.add(f"from {owner} import {name}")
        elif _is_plain(value):
            self.constants.append(f"{name} = {value!r}")
        else:
            kind = type(value).__name__
            raise self._error(f"'{name}', a {kind} that cannot be written; define it in the class")

    def _error(self, problem: str) -> CompatbenchError:
        return CompatbenchError(
            f"class {self._class.__name__} uses {problem}, or write the method into a file and "
            "give its path ('compatbench new-method' writes one)"
        )


def _find_owner(name: str, value: object, module: ModuleType) -> str | None:
    """Return the module from which a value can be imported under this name.

    Several may have it. Which one is written must not depend on what else was imported, because
    the file decides the key: first the value's own module, then ours, then the shortest name.
    """
    others = sorted(sys.modules, key=lambda other: (len(other), other))
    for candidate in [getattr(value, "__module__", None), *_PUBLIC, *others]:
        owner = sys.modules.get(candidate) if isinstance(candidate, str) else None
        if owner is None or owner is module:
            continue
        if name in vars(owner) and vars(owner)[name] is value:
            return candidate
    return None


def _is_plain(value: object) -> bool:
    """Return True for numbers, text, and lists and dictionaries of them, which repr writes.

    Not for sets, whose order changes from process to process.
    """
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))  # type: ignore[arg-type]
    if type(value) is dict:
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if type(value) is float:
        return abs(value) < float("inf")
    return type(value) in _PLAIN


def _names_used(source: str) -> Iterator[str]:
    """Yield the names that a source takes from its module, annotations included, in order."""
    # Without the future import that postpones annotations, they are code like all else.
    codes = [compile(source, "<source>", "exec", dont_inherit=True)]
    for code in codes:
        for instruction in dis.get_instructions(code):
            if instruction.opname in _LOADS and not instruction.argval.startswith("__"):
                yield instruction.argval
        codes += [value for value in code.co_consts if isinstance(value, CodeType)]


def _read_source(value: type | FunctionType) -> str:
    """Return the source of a class or a function, with its decorators.

    ``inspect`` finds no class of a notebook, because its module has no file.
    """
    name = value.__name__
    if "." in value.__qualname__:
        raise CompatbenchError(
            f"the source of {name} cannot be read: it is defined inside a function. Define it at "
            "the top level of a script or of a cell, or give the path of a file"
        )
    for file in _files_of(value):
        lines = linecache.getlines(file)
        code = compile("".join(lines), file, "exec", dont_inherit=True)
        for inner in reversed(code.co_consts):
            if isinstance(inner, CodeType) and inner.co_name == name:
                return "".join(inspect.getblock(lines[inner.co_firstlineno - 1 :]))
    raise CompatbenchError(
        f"the source of {name} cannot be read; write the class into a file and give its path"
    )


def _files_of(value: type | FunctionType) -> Iterator[str]:
    """Yield the files and cells that may define a class or a function, the likeliest first."""
    for code in _codes_of(value):
        if linecache.getlines(code.co_filename):
            yield code.co_filename
    # A class without functions does not know its cell: the last cells come first.
    file = getattr(sys.modules[value.__module__], "__file__", None)
    if file is not None:
        yield file
        return
    for cell, entry in reversed(linecache.cache.items()):
        if len(entry) == 4 and entry[1] is None:  # its text is in memory alone
            yield cell


def _codes_of(value: object) -> Iterator[CodeType]:
    """Yield the code of a function, or of the functions in a class and the classes in it."""
    function = getattr(value, "__func__", getattr(value, "fget", value))
    function = inspect.unwrap(function) if callable(function) else function
    if isinstance(function, FunctionType):
        yield function.__code__
    elif isinstance(value, type):
        inside: Mapping[str, object] = vars(value)
        for inner in inside.values():
            is_own = getattr(inner, "__module__", value.__module__) == value.__module__
            if is_own and not (isinstance(inner, type) and "." not in inner.__qualname__):
                yield from _codes_of(inner)


def _postpones_annotations(cls: type) -> bool:
    flag = __future__.annotations.compiler_flag
    return any(code.co_flags & flag for code in _codes_of(cls))
