"""Mistakes in contributed code, each in one line: what is wrong, the fix, the author's own line."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import entry_points
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from compatbench.data.cards import unknown_name
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import CONTENT
from compatbench.messages import first_line, first_problem

_ModelT = TypeVar("_ModelT", bound=BaseModel)

# The packages of files that were loaded from anywhere have names that begin with this.
PLUGIN_PREFIX = "compatbench_plugin_"
OURS = tuple(f"compatbench.{kind}." for kind in CONTENT)

# What libraries say of mistakes that are often made, and what to do about it.
FIXES = {
    r"same device|not on the expected device": "make tensors with device=backbone.device",
    r"[Tt]arget .* out of bounds": "logits need a column for each class: [batch, classes]",
    r"^No module named '(methods|transfers|formats)\b": r"write 'from compatbench.\1...'",
}


class MethodMistake(ValueError):
    """What contributed code returned is not what was asked of it."""

    def __init__(self, problem: str, *functions: object) -> None:
        """The first of the functions that is an author's tells where to look."""
        super().__init__(f"{problem}{_suffix(next(filter(None, map(find_line, functions)), ''))}")


def explain(error: BaseException) -> str:
    """One line for an error in contributed code: what, the fix if it is known, and the line."""
    if isinstance(error, MethodMistake):
        return str(error)
    what = f"{describe_error(error)}{_suggest(error)}"
    if isinstance(error, BrokenImages):  # no mistake of the code; rows are told apart by the name
        return f"{type(error).__name__}: {what}"
    return what + _suffix(author_line(traceback.walk_tb(error.__traceback__)))


def explain_import(error: Exception, path: Path) -> str:
    """One line for a file that failed to load: where, what, and the fix if it is known."""
    if isinstance(error, SyntaxError):
        # A file that is no text has no lines.
        line = f":{error.lineno}" if error.lineno else ""
        return f"{error.filename or path}{line}: SyntaxError: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    line = f":{lines[-1]}" if lines else ""
    text = re.sub(rf"{PLUGIN_PREFIX}[0-9a-f]+\.", "", describe_error(error))
    return f"{path}{line}: {text}{_suggest(error)}"


def describe_error(error: BaseException) -> str:
    """The type of an error and what it says; of settings that are refused, the field."""
    if isinstance(error, ValidationError):
        field, problem = first_problem(error)
        return f"{error.title}: " + (f"field '{field}': " if field else "") + problem
    text = first_line(error) if isinstance(error, Exception) and str(error) else ""
    if isinstance(error, CompatbenchError):
        return text
    return f"{type(error).__name__}{': ' if text else ''}{text}"


def _suggest(error: BaseException) -> str:
    """What to do about an error, if it is known."""
    owner = getattr(error, "obj", None) if isinstance(error, AttributeError) else None
    if not isinstance(owner, type) and hasattr(owner, "attach") and hasattr(owner, "card"):
        return (
            "; another instance has fitted the module, or has loaded it: keep all that attach "
            "needs in the module, not on self"
        )
    for pattern, fix in FIXES.items():
        if match := re.search(pattern, str(error)):
            return f"; {match.expand(fix)}"
    return ""


def author_line(frames: Iterable[tuple[FrameType, int]]) -> str:
    """``mine.py:31``, the last of some frames that is an author's; of none, the last of all.

    Code from outside goes before that of the repository, of which it may be a subclass.
    """
    most, line = -1, ""
    for frame, number in frames:
        if (rank := _rank(frame.f_globals.get("__name__", ""))) >= most:
            most, line = rank, f"{Path(frame.f_code.co_filename).name}:{number}"
    return line


def is_contributed(value: object) -> bool:
    """Whether a function or a class is an author's, and not of the harness or of a library."""
    return _rank(getattr(value, "__module__", None) or "") > 0


def find_line(value: object) -> str:
    """Where an author has written a function, a callable object or a class; or empty."""
    if isinstance(value, partial):
        value = value.func
    if not inspect.isroutine(value) and not isinstance(value, type):
        value = type(value).__call__ if callable(value) else None
    value = inspect.unwrap(getattr(value, "__func__", value))  # type: ignore[arg-type]
    if not is_contributed(value):
        return ""
    try:
        file, (_, line) = inspect.getfile(value), inspect.getsourcelines(value)  # type: ignore[arg-type]
    except (TypeError, OSError):
        return ""
    return f"{Path(file).name}:{line}"


def _suffix(line: str) -> str:
    return f" ({line})" if line else ""


def _rank(module: str) -> int:
    """2 for a module of an author's own, 1 for content of the repository, 0 for all others."""
    package = module.partition(".")[0]
    if package.startswith(PLUGIN_PREFIX) or package in _installed():
        return 2
    return int(f"{module}.".startswith(OURS))


@cache
def _installed() -> set[str]:
    """The installed packages in which there is content."""
    groups = (entry_points(group=f"compatbench.{kind}") for kind in CONTENT)
    return {entry.value.partition(":")[0].partition(".")[0] for group in groups for entry in group}


def read_settings(model: type[_ModelT], values: Mapping[str, Any], whose: str) -> _ModelT:
    """Settings, checked; the error says ``whose`` they are."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # Of a union pydantic names the type as well, as if it were a field.
        parts = takewhile(lambda part: "-" not in part and "[" not in part, map(str, first["loc"]))
        unknown = first["type"] == "extra_forbidden"
        problem = "there is no such setting" if unknown else first["msg"]
        raise CompatbenchError(f"setting '{'.'.join(parts)}' of {whose}: {problem}") from None


def check_words(field: str, values: Collection[str], kind: type, known: Sequence[str] = ()) -> None:
    """Refuses a field of a card that is no tuple or set, or has words that are not ``known``."""
    if not isinstance(values, kind):
        words = (values,) if isinstance(values, str) else (*values,)
        right = repr(words if kind is tuple else {*words})
        raise CompatbenchError(f"the card's {field}={values!r}: write {field}={right}")
    for value in values if known else ():
        if value not in known:
            raise CompatbenchError(unknown_name(str(value), known, f"card's '{field}'"))


def check_module(module: Any, function: Any) -> None:
    """Refuses what a function returned if it is no module."""
    if not hasattr(module, "trained"):
        problem = f"{function.__name__} returned {_kind(module)}, not a Module"
        raise MethodMistake(problem, function)


def check_logits(logits: Any, images: int, classes: int, *functions: object) -> None:
    """Refuses what is no tensor of logits ``[images, classes]``.

    Raises:
        MethodMistake: with the line of the first of the functions that is an author's.
    """
    shape = [images, classes]
    if not isinstance(logits, Tensor):
        problem = f"the classifier returned {_kind(logits)}, not a tensor of logits {shape}"
        raise MethodMistake(problem, *functions)
    if [*logits.shape] != shape:
        problem = f"logits have shape {[*logits.shape]}, not {shape}: [images, classes]"
        raise MethodMistake(problem, *functions)


def check_loss(loss: Any, trained: Mapping[str, Tensor], *functions: object) -> None:
    """Refuses a loss that is no number, or that does not depend on what is trained."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = f"shape {[*loss.shape]}" if isinstance(loss, Tensor) else _kind(loss)
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
    """Refuses tensors that an optimiser cannot move."""
    problems = [] if trained else ["the module has no trained tensors: Module(trained={...})"]
    for name, tensor in trained.items():
        what = f"trained tensor '{name}'"
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else _kind(tensor)
            problems.append(f"{what} is {kind}; what is trained is a tensor of float32")
        elif not tensor.is_leaf:
            problems.append(f"{what} has a gradient of its own: it was computed; detach() it")
        elif tensor.device.type != device.type:  # of two cards, PyTorch says it itself
            problems.append(
                f"{what} is on {tensor.device} and the backbone on {device}; give "
                "Module(...).to(backbone.device)"
            )
    if problems:
        raise MethodMistake(problems[0], *functions)


def _kind(value: object) -> str:
    return "nothing (None)" if value is None else f"a {type(value).__name__}"
