"""Names, lists, globs, exclusions and ``all``: one way to choose things by name everywhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from compatbench.errors import CompatbenchError


def select_names(wanted: str | Iterable[str], known: Sequence[str], kind: str) -> list[str]:
    """The known names that a selection means, in the order of ``known``.

    Args:
        wanted: names, globs, ``all``, and exclusions (a name or glob behind ``!``);
            a string is split at commas.
        known: every name there is.
        kind: what the names are, for the message: ``"method"``.

    Raises:
        CompatbenchError: a name or glob matches nothing, with suggestions.
    """
    parts = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    parts = [part.strip() for part in parts if part.strip()]
    chosen: set[str] = set()
    if not any(not part.startswith("!") for part in parts):
        chosen.update(known)
    for part in parts:
        exclude = part.startswith("!")
        pattern = part.removeprefix("!")
        matches = {
            name
            for name in known
            if pattern == "all" or name == pattern or fnmatchcase(name, pattern)
        }
        if not matches:
            raise CompatbenchError(unknown_name(pattern, known, kind))
        chosen = chosen - matches if exclude else chosen | matches
    return [name for name in known if name in chosen]


def unknown_name(name: str, known: Sequence[str], kind: str) -> str:
    """The message for a name that nothing bears, with the likeliest names."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"no {kind} named '{name}'; did you mean {' or '.join(close)}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"no {kind} named '{name}'; known: {shown or 'none'}"
