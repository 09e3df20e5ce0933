"""Names on cards and on the command line: their patterns, and how a selection finds them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator

from compatbench.errors import CompatbenchError

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_PART = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_FOLDER = r"[^\s./\\:~\x00-\x1f][^/\\:\x00-\x1f]{0,254}"
_PATH = r"[^\s\x00-\x1f]([^\x00-\x1f]{0,998}[^\s\x00-\x1f])?"


def written_as(pattern: str, expected: str) -> AfterValidator:
    """Return a validator that accepts texts of a pattern; its error says what is ``expected``."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r}: give {expected}")
        return text

    return AfterValidator(check)


# A name becomes part of a path, so it may hold neither separators nor dots alone.
_LETTERS = "a name of letters, digits, '-', '_' and '.'"
Name = Annotated[str, written_as(NAME, _LETTERS)]
# A method, or a config of one that a suite names: 'contcoop', 'contcoop+no-kd'.
ConfigName = Annotated[
    str, written_as(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", f"{_LETTERS}, perhaps with '+'")
]
# A path that stays inside the folder that it is relative to.
RelativePath = Annotated[str, written_as(rf"{_PART}(/{_PART})*", "a plain path below the folder")]
FilePattern = Annotated[
    str,
    written_as(
        r"[A-Za-z0-9_*][\w.*-]*(/[\w*-][\w.*-]*)*",
        "a plain path below the folder, perhaps with '*'",
    ),
]
# Likewise for images, whose folders have all kinds of names; '.' is the folder itself.
IMAGES_PATH = rf"(\.|{_FOLDER}(/{_FOLDER})*)"
ImagesPath = Annotated[str, written_as(IMAGES_PATH, "a path below the folder, without '..'")]
# As the Hub has them: OWNER/NAME, or NAME.
_IN_HUB = r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
REPOSITORY = rf"(?!.*(--|\.\.|\.git$))({_IN_HUB}/)?{_IN_HUB}"
Repository = Annotated[str, written_as(REPOSITORY, "a repository of the Hub, OWNER/NAME")]
Link = Annotated[str, written_as(r"https?://\S+", "an address, https://...")]
# The name or path of a card, or a name that needs no card: MODEL/TAG, MODEL@FILE,
# MODEL/TAG@FILE, local-dir:FOLDER, hf:FOLDER and hf:OWNER/NAME.
_NO_CARD = rf"{NAME}(/{NAME})?(@{_PATH})?|(local-dir|hf):{_PATH}"
BackboneName = Annotated[
    str,
    written_as(
        rf"({_NO_CARD}|[^\s\x00-\x1f@:][^\x00-\x1f@:]*\.ya?ml)",
        "the name or path of a card, MODEL/TAG, MODEL@FILE, local-dir:FOLDER or hf:FOLDER",
    ),
]
# Halves of a task's classes, as in CoCoOp (arXiv:2203.05557) for base-to-new: the first ⌈C/2⌉
# labels, and the others, numbered from 0. A half is a separate task without a card.
Half = Literal["base", "new"]
HALVES: tuple[Half, ...] = get_args(Half)


def half_name(task: str, half: Half) -> str:
    """Return the name of a half of a task."""
    return f"{task}.{half}"


def half_labels(classes: int, half: Half) -> range:
    """Return the labels of a half, if there are so many classes."""
    middle = (classes + 1) // 2
    if half == "base":
        return range(middle)
    return range(middle, classes)


def split_half(name: str) -> tuple[str, Half | None]:
    """Return the task and the half of a half's name; of a whole task, its name and None."""
    task, _, end = name.rpartition(".")
    for half in HALVES:
        if task and end == half:
            return task, half
    return name, None


def whole_name(name: str) -> str:
    """Return the task of a half's name; of a whole task, the name itself."""
    task, _ = split_half(name)
    return task


def select_names(selection: str | Iterable[str], known: Sequence[str], kind: str) -> list[str]:
    """Return the selected ones of the known names, in the order of ``known``.

    A selection has names, globs, ``all``, and exclusions (a name or glob after ``!``). A string
    is split at commas.

    Raises:
        CompatbenchError: the selection is empty, or a part matches nothing. The message names the
            ``kind`` of the names.
    """
    if isinstance(selection, str):
        selection = selection.split(",")
    stripped = [part.strip() for part in selection]
    parts = [part for part in stripped if part]
    if not parts:
        raise CompatbenchError(f"'' names no {kind}; 'all' selects every one")
    only_exclusions = all(part.startswith("!") for part in parts)
    chosen = set(known) if only_exclusions else set()
    for part in parts:
        pattern = part.removeprefix("!")
        glob = "*" if pattern == "all" else pattern
        matches = set()
        for name in known:
            if name == pattern or fnmatchcase(name, glob):
                matches.add(name)
        if not matches:
            raise CompatbenchError(unknown_name(pattern, known, kind))
        if part.startswith("!"):
            chosen -= matches
        else:
            chosen |= matches
    return [name for name in known if name in chosen]


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the end of a message for a misspelt name, with the most similar known ones, or ''."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not close:
        return ""
    quoted = [f"'{each}'" for each in close]
    return f"; did you mean {' or '.join(quoted)}?"


def unknown_name(name: str, known: Sequence[str], kind: str) -> str:
    """Return the message for an unknown name, with the most similar known ones."""
    if not name.isprintable():
        name = repr(name)[1:-1]  # so that the message is one line
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        suggestions = " or ".join(close)
        return f"no {kind} named '{name}'; did you mean {suggestions}?"
    shown = ", ".join(known[:12]) or "none"
    if len(known) > 12:
        shown += ", ..."
    return f"no {kind} named '{name}'; known: {shown}"
