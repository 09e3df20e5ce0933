"""Numbers as readers see them: one decimal, never ``-0.0``, and a dash for what is not known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from compatbench.files.sizes import format_bytes

if TYPE_CHECKING:
    from compatbench.results.estimate import Interval

NOTHING = "–"


def rounded(value: float | None, digits: int) -> float | None:
    """Return a number without more digits than these, if there is one."""
    # Adding 0 makes -0.0 the 0 that it is.
    return None if value is None else round(value, digits) + 0.0


def percent(value: float | None) -> str:
    """Return a number with one decimal, never ``-0.0``."""
    # Adding 0 makes -0.0 the 0 that it is.
    return NOTHING if value is None else f"{round(value, 1) + 0:.1f}"


def signed(value: float | None) -> str:
    """Return a number with one decimal and its sign; ``0.0`` has none."""
    text = percent(value)
    has_no_sign = text in (NOTHING, "0.0") or text.startswith("-")
    return text if has_no_sign else f"+{text}"


def share(value: float | None) -> str:
    """Return a share of a gain as a whole percentage; below 0 nothing is kept of it."""
    if value is None:
        return NOTHING
    return "< 0" if round(value) < 0 else str(round(value))


def duration(seconds: float | None) -> str:
    """Return ``11.7 s``, or ``<0.1 s``."""
    if seconds is None:
        return NOTHING
    return "<0.1 s" if seconds < 0.05 else f"{seconds:,.1f} s"


def size(number: float | None) -> str:
    """Return ``32.0 KiB``."""
    return NOTHING if number is None else format_bytes(number)


def bounds(interval: Interval | None, show: Callable[[float | None], str] = percent) -> str:
    """Return ``42.9 to 63.1``; a dash where only one dataset is known."""
    if interval is None or not interval.bounded:
        return NOTHING
    return f"{show(interval.low)} to {show(interval.high)}"


def with_interval(row: Mapping[str, Any], name: str, show: Callable[[Any], str] = signed) -> str:
    """Return the columns of ``interval_columns`` as ``+1.2 (-0.3 to +2.5)``."""
    if row[name] is None:
        return NOTHING
    between = interval_text(row, name, show)
    shown = show(row[name])
    return shown if between == NOTHING else f"{shown} ({between})"


def interval_text(row: Mapping[str, Any], name: str, show: Callable[[Any], str] = percent) -> str:
    """Return the bounds alone: ``-0.3 to +2.5``."""
    low = row[f"{name}_low"]
    high = row[f"{name}_high"]
    return NOTHING if low is None else f"{show(low)} to {show(high)}"
