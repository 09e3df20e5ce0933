"""One-line messages for mistakes in contributed code: the problem, the fix, the author's line."""

from __future__ import annotations

import inspect
import json
import re
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from compatbench.data.cards import unknown_name
from compatbench.data.cards.names import did_you_mean
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import CONTENT
from compatbench.messages import first_line, first_problem

_ModelT = TypeVar("_ModelT", bound=BaseModel)

# The packages of files that were loaded from anywhere have names that begin with this.
PLUGIN_PREFIX = "compatbench_plugin_"
OURS = tuple(f"compatbench.{kind}." for kind in CONTENT)

# Messages of libraries about common mistakes, and what to do about them.
FIXES = {
    r"same device|not on the expected device": "make tensors with device=backbone.device",
    r"[Tt]arget .* out of bounds": "logits need a column for each class: [batch, classes]",
    r"^No module named '(methods|transfers|formats)\b": r"write 'from compatbench.\1...'",
}


class MethodMistake(ValueError):
    """Contributed code returned something else than it should."""

    def __init__(self, problem: str, *functions: object) -> None:
        """Add the line of the first of the functions that an author has written."""
        line = ""
        for function in functions:
            line = find_line(function)
            if line:
                break
        super().__init__(f"{problem}{_suffix(line)}")


def explain(error: BaseException) -> str:
    """Return one line for an error in contributed code: problem, fix if known, and line."""
    if isinstance(error, MethodMistake):
        return str(error)
    problem = f"{describe_error(error)}{_suggest(error)}"
    if isinstance(error, BrokenImages):
        # This is not a mistake of the code. Rows are told apart by the name of the error.
        return f"{type(error).__name__}: {problem}"
    return problem + _suffix(author_line(traceback.walk_tb(error.__traceback__)))


def explain_import(error: Exception, path: Path) -> str:
    """Return one line for a file that failed to load: place, problem, and fix if known."""
    if isinstance(error, SyntaxError):
        # A file that is not text has no lines.
        line = f":{error.lineno}" if error.lineno else ""
        return f"{error.filename or path}{line}: SyntaxError: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    line = f":{lines[-1]}" if lines else ""
    text = re.sub(rf"{PLUGIN_PREFIX}[0-9a-f]+\.", "", describe_error(error))
    return f"{path}{line}: {text}{_suggest(error)}"


def describe_error(error: BaseException) -> str:
    """Return the type and the message of an error; for refused settings, the field."""
    if isinstance(error, ValidationError):
        field, problem = first_problem(error)
        place = f"field '{field}': " if field else ""
        return f"{error.title}: {place}{problem}"
    text = ""
    if isinstance(error, Exception) and str(error):
        text = first_line(error)
    if isinstance(error, CompatbenchError):
        return text
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _suggest(error: BaseException) -> str:
    """Return what to do about an error, or '' if that is not known."""
    if isinstance(error, AttributeError):
        owner = getattr(error, "obj", None)
        if not isinstance(owner, type) and hasattr(owner, "attach") and hasattr(owner, "card"):
            return (
                "; another instance has fitted the module, or has loaded it: keep all that attach "
                "needs in the module, not on self"
            )
    for pattern, fix in FIXES.items():
        match = re.search(pattern, str(error))
        if match:
            return f"; {match.expand(fix)}"
    return ""


def author_line(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Return the last line, such as ``mine.py:31``, that an author has written.

    Code from outside comes before that of the repository, which it may subclass. If no author
    has written any of the frames, return the last of all.
    """
    highest = -1
    line = ""
    for frame, number in frames:
        rank = _rank(frame.f_globals.get("__name__", ""))
        if rank >= highest:
            highest = rank
            line = f"{Path(frame.f_code.co_filename).name}:{number}"
    return line


def is_contributed(value: object) -> bool:
    """Return True if a function or a class belongs neither to the harness nor to a library."""
    return is_contributed_module(getattr(value, "__module__", None) or "")


def is_contributed_module(name: str) -> bool:
    """Return True if a module of this name belongs neither to the harness nor to a library."""
    return _rank(name) > 0


def find_line(value: object) -> str:
    """Return where an author has written a function, callable object or class; else ''."""
    if isinstance(value, partial):
        value = value.func
    if not inspect.isroutine(value) and not isinstance(value, type):
        value = type(value).__call__ if callable(value) else None
    value = inspect.unwrap(getattr(value, "__func__", value))  # type: ignore[arg-type]
    if not is_contributed(value):
        return ""
    try:
        file = inspect.getfile(value)  # type: ignore[arg-type]
        _, line = inspect.getsourcelines(value)  # type: ignore[arg-type]
    except (TypeError, OSError):
        return ""
    return f"{Path(file).name}:{line}"


def _suffix(line: str) -> str:
    return f" ({line})" if line else ""


def _rank(module: str) -> int:
    """Return 2 for a module of an author's own, 1 for content of the repository, 0 for others."""
    package = module.partition(".")[0]
    if package.startswith(PLUGIN_PREFIX) or package in _installed():
        return 2
    return int(f"{module}.".startswith(OURS))


@cache
def _installed() -> set[str]:
    """Return the installed packages that contain methods, transfers or formats."""
    packages = set()
    for kind in CONTENT:
        for entry in entry_points(group=f"compatbench.{kind}"):
            module = entry.value.partition(":")[0]
            packages.add(module.partition(".")[0])
    return packages


def read_settings(model: type[_ModelT], values: Mapping[str, Any], whose: str) -> _ModelT:
    """Return checked settings.

    Raises:
        CompatbenchError: a setting is unknown or invalid. The message names it, and ``whose``
            settings they are.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        parts = []
        for part in map(str, first["loc"]):
            # In a union, pydantic adds the type to the path, as if it were a field.
            if "-" in part or "[" in part:
                break
            parts.append(part)
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            problem = "there is no such setting"
            problem += _suggest_setting(model, parts, first["input"])
        raise CompatbenchError(f"setting '{'.'.join(parts)}' of {whose}: {problem}") from None


def _suggest_setting(model: type[BaseModel], parts: Sequence[str], value: object) -> str:
    """Return what was probably meant by an unknown setting, as the end of a message; or ''."""
    fields = model.model_fields
    for part in parts[:-1]:
        kind = fields[part].annotation if part in fields else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return ""
        fields = kind.model_fields
    unknown = parts[-1]
    group, dot, inner = unknown.partition(".")
    if dot and group in fields:
        written = json.dumps({group: {inner: value}}, default=str)
        return f"; write {written}"
    return did_you_mean(unknown, list(fields))


def check_words(field: str, values: Collection[str], kind: type, known: Sequence[str] = ()) -> None:
    """Raise ``CompatbenchError`` for a card's field of another type, or with unknown words.

    Args:
        field: the field's name.
        values: its value.
        kind: the type that it must have, a tuple or a set.
        known: the words that it may have; empty for any.
    """
    if not isinstance(values, kind):
        words = (values,) if isinstance(values, str) else tuple(values)
        right = repr(words if kind is tuple else set(words))
        raise CompatbenchError(f"the card's {field}={values!r}: write {field}={right}")
    if known:
        for value in values:
            if value not in known:
                raise CompatbenchError(unknown_name(str(value), known, f"card's '{field}'"))


def check_module(module: Any, function: Any) -> None:
    """Raise ``MethodMistake`` if a function did not return a module."""
    if not hasattr(module, "trained"):
        problem = f"{function.__name__} returned {_kind(module)}, not a Module"
        raise MethodMistake(problem, function)


def check_logits(logits: Any, images: int, classes: int, *functions: object) -> None:
    """Raise an error unless ``logits`` is a tensor ``[images, classes]``.

    Raises:
        MethodMistake: with the line of the first of the functions that an author has written.
    """
    shape = [images, classes]
    if not isinstance(logits, Tensor):
        problem = f"the classifier returned {_kind(logits)}, not a tensor of logits {shape}"
        raise MethodMistake(problem, *functions)
    if list(logits.shape) != shape:
        problem = f"logits have shape {list(logits.shape)}, not {shape}: [images, classes]"
        raise MethodMistake(problem, *functions)


def check_loss(loss: Any, trained: Mapping[str, Tensor], *functions: object) -> None:
    """Raise ``MethodMistake`` for a loss that is no number, or has no gradient."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else _kind(loss)
        raise MethodMistake(
            f"the loss is {shape}, not a tensor of one number; take its mean", *functions
        )
    if not loss.requires_grad:
        raise MethodMistake(
            f"the loss has no gradient for what is trained ({', '.join(trained)}): it is detached, "
            "or computed under no_grad",
            *functions,
        )


def check_trainable(
    trained: Mapping[str, Tensor], device: torch.device, *functions: object
) -> None:
    """Raise ``MethodMistake`` for tensors that an optimiser cannot change."""
    if not trained:
        problem = "the module has no trained tensors: Module(trained={...})"
        raise MethodMistake(problem, *functions)
    for name, tensor in trained.items():
        problem = ""
        if not isinstance(tensor, Tensor):
            problem = f"is {_kind(tensor)}; it must be a tensor of float32"
        elif not tensor.is_floating_point():
            problem = f"is {tensor.dtype}; it must be a tensor of float32"
        elif not tensor.is_leaf:
            problem = "has a gradient of its own: it was computed; detach() it"
        elif tensor.device.type != device.type:  # PyTorch itself reports two cards of one type
            problem = (
                f"is on {tensor.device} and the backbone on {device}; give "
                "Module(...).to(backbone.device)"
            )
        if problem:
            raise MethodMistake(f"trained tensor '{name}' {problem}", *functions)


def _kind(value: object) -> str:
    return "nothing (None)" if value is None else f"a {type(value).__name__}"
