"""Tables of ``docs/alignment.md`` and of ``compatbench analyze gauge``."""

from __future__ import annotations

from collections.abc import Sequence

from compatbench.pages.markdown import NOTHING, code, escape, percent, signed, spread, table
from compatbench.results.bootstrap import Interval
from compatbench.results.measures import Upgrade
from compatbench.studies.aligned_gains import AlignedGain
from compatbench.studies.gauge import GaugeReport
from compatbench.studies.stress import RANDOM, StressPoint

SECTIONS = ("gauge", "turned", "aligned", "sizes", "words")
MAPS = {"none": "as it is", "words": "turned by words", "images": "turned by images"}
FIGURES = {
    "word_residual": "what is left of the words' differences",
    "image_residual": "what is left of the images' differences",
    "word_cosine": "cosine of the same word",
    "image_cosine": "cosine of the same image",
    "image_distance": "distance of the mean images",
    "angle": "mean principal angle of the words, degrees",
}


def gauge_rows(report: GaugeReport) -> list[list[str]]:
    """Header and rows: a figure each, by what the target was turned with."""
    header = ["", *[MAPS[one.map] for one in report.maps]]
    rows = [
        [title, *[_number(getattr(one, name), name) for one in report.maps]]
        for name, title in FIGURES.items()
    ]
    return [header, *rows]


def _number(value: float, name: str) -> str:
    digits = 0 if name == "angle" else 2
    return f"{round(value, digits) + 0.0:.{digits}f}"  # never -0.00


def describe_gauge(report: GaugeReport) -> list[str]:
    """What no table has room for, a sentence each."""
    source, target = report.sizes
    sizes = f"{source} directions" if source == target else f"{source} and {target} directions"
    turned = ""
    if report.turn is not None:
        turned = f"; by them the space has turned by {report.turn:.0f}° (median over its planes)"
    return [
        f"{report.words:,} words and {report.images:,} test images; {sizes}, of which the words "
        f"determine {report.rank}{turned}.",
        f"The turn found from words and the one found from images agree to {report.agreement:.2f} "
        "(1: the same; 0: unrelated).",
        f"Modality gap: {report.source_gap:.2f} on the source, {report.target_gap:.2f} on the "
        "target; no turn changes it.",
    ]


def render_gauge(report: GaugeReport) -> str:
    """The figures of a pair as Markdown."""
    header, *rows = gauge_rows(report)
    lines = [
        f"{code(report.source)} → {code(report.target)}:",
        "",
        *table(header, rows),
        "",
        *[f"* {escape(line, longest=400)}" for line in describe_gauge(report)],
    ]
    return "\n".join(lines)


def stress_rows(points: Sequence[StressPoint], spreads: bool = True) -> list[list[str]]:
    """Header and rows: a method each, its accuracy on the target by how that was changed."""
    changes = list(dict.fromkeys(point.change for point in points))
    units = "" if points[0].flipped is None else "°"
    header = ["", "source", *[name if name == RANDOM else f"{name}{units}" for name in changes]]
    by_place = {(point.method, point.change): point for point in points}
    first = [by_place[points[0].method, change] for change in changes]
    rows = [["zero-shot", NOTHING, *[percent(point.zero_shot) for point in first]]]
    for name in dict.fromkeys(point.method for point in points):
        own = [by_place[name, change] for change in changes]
        figures = [
            spread(one.target) if spreads else percent(one.target and one.target.value)
            for one in own
        ]
        rows.append([name, percent(own[0].source.value), *figures])
    return [header, *rows]


def render_stress(pair: Upgrade, points: Sequence[StressPoint], what: str) -> str:
    """A stress test as Markdown.

    Args:
        what: ``turned``, ``sizes`` or ``words``.
    """
    header, *rows = stress_rows(points)
    rows = [[code(row[0]) if i else row[0], *row[1:]] for i, row in enumerate(rows)]
    words = {
        "turned": "accuracy on the target by the largest angle of its turn, mean ± std over turns",
        "sizes": "accuracy on the target by the size of its narrowed joint space",
        "words": "accuracy on the target by the words of which the turn was found",
    }
    lines = [f"{code(pair[0])} → {code(pair[1])}, {words[what]}:", "", *table(header, rows)]
    flipped = [point.flipped for point in points if point.flipped is not None]
    if flipped:
        lines += [
            "",
            f"* Zero-shot answers that any turn has changed, by rounding: {max(flipped)}.",
        ]
    if reason := next((point.reason for point in points if point.reason), ""):
        lines += ["", f"* {NOTHING}: not transferable; {escape(reason)}, and so on."]
    return "\n".join(lines)


def render_gains(pair: Upgrade, gains: Sequence[AlignedGain]) -> str:
    """Copied against aligned, a row for each method."""
    head = f"{code(pair[0])} → {code(pair[1])}"
    if not gains:
        return f"{head}: no results yet."
    rows = [
        [
            escape(one.title),
            *map(spread, (one.source, one.copied, one.aligned)),
            _interval(one.gain),
            _interval(one.over_zero_shot),
            *map(spread, (one.copied_h, one.aligned_h)),
        ]
        for one in gains
    ]
    header = ["Method", "Source", "Copied", "Aligned", "Gain", "Over zero-shot", "H copied"]
    zero_shot = percent(gains[0].zero_shot)
    lines = [
        f"{head}, the target's zero-shot is {zero_shot}:",
        "",
        *table([*header, "H aligned"], rows),
    ]
    return "\n".join(lines)


def _interval(found: Interval) -> str:
    if not found.bounded:
        return signed(found.value)
    return f"{signed(found.value)} ({signed(found.low)} to {signed(found.high)})"
