"""Numbers as readers see them: one decimal, never ``-0.0``, and a dash for what is not known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compatbench.results.estimate import Interval

NOTHING = "–"


def rounded(value: float | None, digits: int) -> float | None:
    """Return a number without more digits than these, if there is one."""
    if value is None:
        return None
    # Adding 0 turns -0.0 into 0.0.
    return round(value, digits) + 0.0


def percent(value: float | None) -> str:
    """Return a number with one decimal, never ``-0.0``."""
    if value is None:
        return NOTHING
    # Adding 0 turns -0.0 into 0.0.
    return f"{round(value, 1) + 0:.1f}"


def signed(value: float | None) -> str:
    """Return a number with one decimal and its sign; ``0.0`` has none."""
    text = percent(value)
    if text in (NOTHING, "0.0") or text.startswith("-"):
        return text
    return f"+{text}"


def signed_bound(bound: float) -> str:
    """Return a bound with one decimal, or with as many as it takes to show its side of 0."""
    shown = signed(bound)
    if bound == 0:
        return shown
    for digits in (2, 3, 4):
        if float(shown):
            break
        shown = f"{bound:+.{digits}f}"
    return shown


def _choose_for_bounds(show: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return how bounds are shown: a difference must show on which side of 0 they are."""
    return signed_bound if show is signed else show


def share(value: float | None) -> str:
    """Return a share of a gain as a whole percentage; ``< 0`` if nothing of the gain is kept."""
    if value is None:
        return NOTHING
    whole = round(value)
    if whole < 0:
        return "< 0"
    return str(whole)


def duration(seconds: float | None) -> str:
    """Return ``11.7 s``, or ``<0.1 s``."""
    if seconds is None:
        return NOTHING
    if seconds < 0.05:
        return "<0.1 s"
    return f"{seconds:,.1f} s"


def bounds(interval: Interval | None, show: Callable[[float | None], str] = percent) -> str:
    """Return ``42.9 to 63.1``; a dash if there is no interval, as with a single dataset."""
    if interval is None or not interval.bounded:
        return NOTHING
    show_bound = _choose_for_bounds(show)
    return f"{show_bound(interval.low)} to {show_bound(interval.high)}"


def with_bounds(interval: Interval | None, show: Callable[[float | None], str] = signed) -> str:
    """Return ``+1.2 (-0.3 to +2.5)``; the number alone if it has no interval."""
    if interval is None:
        return NOTHING
    if not interval.bounded:
        return show(interval.value)
    return f"{show(interval.value)} ({bounds(interval, show)})"


def with_interval(row: Mapping[str, Any], name: str, show: Callable[[Any], str] = signed) -> str:
    """Return the columns of ``interval_columns`` as ``+1.2 (-0.3 to +2.5)``."""
    if row[name] is None:
        return NOTHING
    shown = show(row[name])
    between = interval_text(row, name, show)
    if between == NOTHING:
        return shown
    return f"{shown} ({between})"


def interval_text(row: Mapping[str, Any], name: str, show: Callable[[Any], str] = percent) -> str:
    """Return the bounds alone: ``-0.3 to +2.5``."""
    low = row[f"{name}_low"]
    high = row[f"{name}_high"]
    if low is None:
        return NOTHING
    show_bound = _choose_for_bounds(show)
    return f"{show_bound(low)} to {show_bound(high)}"
