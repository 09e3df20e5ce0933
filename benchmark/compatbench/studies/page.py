"""Tables and figures between the marks of a page, such as ``docs/analysis.md``."""

from __future__ import annotations

from collections.abc import Sequence

from compatbench.errors import CompatbenchError
from compatbench.pages.markdown import NOTHING, code, escape, signed, spread, table
from compatbench.studies.depth import DepthReport, describe_trends
from compatbench.studies.embeddings import (
    PREDICTORS,
    Geometry,
    Prediction,
    summarize_predictions,
)
from compatbench.studies.layers import LayersReport

SECTIONS = ("layers", "depth", "embeddings", "claims")


def marked_sections(text: str, known: Sequence[str] = SECTIONS) -> list[str]:
    """The sections whose marks ``<!-- name:begin -->`` and ``<!-- name:end -->`` a page has.

    Raises:
        CompatbenchError: it has none, or the marks of one do not stand in a pair.
    """
    found = []
    for name in known:
        begin, end = _marks(name)
        if (counts := (text.count(begin), text.count(end))) == (0, 0):
            continue
        if counts != (1, 1) or text.index(begin) > text.index(end):
            raise CompatbenchError(
                f"the page needs '{begin.strip()}' once, and '{end.strip()}' once below it"
            )
        found.append(name)
    if not found:
        begin, end = (mark.strip() for mark in _marks(known[0]))
        raise CompatbenchError(
            f"the page has no marks to write between, such as '{begin}' and '{end}'"
        )
    return found


def fill_section(text: str, name: str, body: str) -> str:
    """The page with a section's body between its marks."""
    begin, end = _marks(name)
    before, rest = text.split(begin)
    return f"{before}{begin}{body.strip()}\n{end}{rest.split(end)[1]}"


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->\n"


def render_layers(report: LayersReport) -> str:
    """The table of all layers, and what could not be compared."""
    rows = [
        [
            one.tower,
            one.layer if one.layer == one.target_layer else f"{one.layer} → {one.target_layer}",
            _number(one.parameter_change, 4),
            _percent(one.parameter_relative),
            _number(one.feature_change, 2),
            _percent(one.feature_relative),
            _number(one.cka, 2),
        ]
        for one in report.changes
    ]
    header = ["Tower", "Layer", "Parameters", "relative", "Features", "relative", "CKA"]
    lines = [
        f"{code(report.source)} → {code(report.target)}: {report.texts:,} prompts and "
        f"{report.images:,} test images of {len(report.tasks)} tasks.",
        "",
        *table(header, rows, left=(0, 1)),
        "",
        *[f"* {escape(note, longest=400)}" for note in report.notes],
    ]
    return "\n".join(lines)


def render_depth(report: DepthReport) -> str:
    """The table of all places, and the trends."""
    rows = [
        [
            one.kind,
            one.place,
            f"{one.parameters:,}",
            *map(spread, (one.source, one.target, one.h)),
            signed(one.source_gain.value),
            signed(one.target_gain.value),
        ]
        for one in report.points
    ]
    plan = report.plan
    header = [
        "Module",
        "Place",
        "Parameters",
        "Source",
        "Target",
        "H",
        "Source gain",
        "Target gain",
    ]
    lines = [
        f"{code(plan.source)} → {code(plan.target)}: {', '.join(map(code, plan.tasks))}; "
        f"{plan.shots} shots, mean ± std over {len(plan.seeds)} seeds, at most "
        f"{plan.training.max_steps} steps.",
        "",
        *table(header, rows, left=(0, 1)),
        "",
        *[f"* {escape(line)}" for line in describe_trends(report)],
    ]
    return "\n".join(lines)


def render_embeddings(geometry: Sequence[Geometry], predictions: Sequence[Prediction]) -> str:
    """The figures of every task, and how they go with the losses."""
    names = [name for name in PREDICTORS if name != "gap_change"]
    rows = [
        [
            code(one.task),
            *[_number(getattr(one, name), 2) for name in names],
            f"{one.source_gap:.2f} → {one.target_gap:.2f}",
        ]
        for one in geometry
    ]
    lines = table(["Task", *[PREDICTORS[name] for name in names], "gap"], rows)
    if predictions:
        found = [
            [
                PREDICTORS[one.measure],
                NOTHING if one.mean is None else f"{one.mean.value:+.2f}",
                NOTHING if one.mean is None else f"{one.mean.low:+.2f} to {one.mean.high:+.2f}",
                f"{one.clear} of {one.methods}",
            ]
            for one in summarize_predictions(predictions)
        ]
        header = ["Figure", "ρ with the mean loss", "95 % interval", "Methods off 0"]
        lines += ["", *table(header, found)]
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.0f} %"
