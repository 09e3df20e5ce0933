"""``report.html``: one page that needs nothing beside itself, the same for the same results.

Every text of a result file or card goes through the template's escaping, and a policy in the
page allows its own script and style alone, by their hashes, and no request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import compatbench
from compatbench.data.shots import show_shots
from compatbench.files.hashes import sha256_bytes
from compatbench.pages.markdown import one_line
from compatbench.pages.report.boards import COLUMNS, all_boards, gap_rows
from compatbench.pages.report.canvas import MARKS
from compatbench.pages.report.figures import TITLES, Drawing, Section
from compatbench.pages.report.inline import inline_svg
from compatbench.pages.suitepage import SuitePage
from compatbench.results.rows import Cost, Row, write_csv
from compatbench.results.store import check_name, join_provenance

if TYPE_CHECKING:
    from jinja2 import Template

_TEXTS: dict[Section, str] = {
    "scatter": "Each mark is one method: its accuracy before the upgrade, and that of the same "
    "module after it. Shallow modules act at the text encoder's input, deep ones anywhere else. "
    "Along a grey line H is the same. The dotted lines are zero-shot: a method below the level one "
    "makes the new model worse than it is without any module.",
    "matrix": "What the old module adds to the new model, in points over its zero-shot accuracy: "
    "blue where it helps, orange where dropping it would have been better. Methods in the order "
    "of the leaderboard; the colour is full from 15 points on.",
    "ranks": "Methods are ranked by H on every dataset; here are their average ranks. An upright "
    "bar joins methods that Nemenyi's test cannot tell apart (5 %); of few datasets it can tell "
    "little.",
    "pareto": "H against the size of the module and the time of its fit. On the line are the "
    "methods than which none is both cheaper and better.",
    "shots": "How accuracy grows with the number of training images per class, on the model that "
    "the module was trained for and on the new one.",
    "decay": "One module, never trained again, along several upgrades: how much it still adds to "
    "each model's zero-shot accuracy. Every method is a thin line, the median of a kind a thick "
    "one.",
    "steps": "The same, method by method: where the module stood on each model of the path. A "
    "hollow mark is off the scale.",
}
_MAKE: dict[Section, str] = {
    "shots": "No suite here has results at several numbers of shots; "
    "'compatbench run --suite mini-shots' makes some.",
    "decay": "No suite here has a path of two or more upgrades; "
    "'compatbench run --suite mini-paths' makes one.",
}
_WIDTHS: dict[Section, str] = {"matrix": "medium", "shots": "broad"}
_LAYERS = (
    "What an upgrade moves: change of parameters and of features by layer, and what the same "
    "small module gains at each depth of the text tower; from docs/analysis/."
)
_KINDS = [(kind, label) for kind, (_, _, label) in MARKS.items()]


@dataclass(frozen=True)
class PageFigure:
    """A figure as the template takes it; ``markup`` alone is not escaped."""

    name: str
    caption: str
    source: str
    markup: Any


@dataclass(frozen=True)
class PageSection:
    """A section with its figures, or with the lines that say why there are none."""

    id: str
    title: str
    text: str
    figures: Sequence[PageFigure]
    missing: Sequence[str]
    width: str = ""


def render_report(
    pages: Sequence[SuitePage],
    drawings: Sequence[Drawing],
    figures: Mapping[str, bytes],
    analyses: Mapping[str, bytes],
) -> str:
    """The whole page.

    Args:
        pages: suites with results, the first to be shown first.
        drawings: of ``plan_drawings``.
        figures: SVG of every drawing that is not missing, by its name.
        analyses: further pictures by caption, SVG files made by other commands.
    """
    boards = all_boards(pages)
    sheets: list[str] = []
    sections = [*_sections(drawings, figures, sheets), _layer_section(analyses)]
    style = "\n".join([_file("page.css"), *sheets])
    script = _file("page.js")
    text = _template().render(
        notes=list(dict.fromkeys(one_line(page.note, 2000) for page in pages[:1] if page.note)),
        sections=sections,
        first=boards[0],
        columns=COLUMNS,
        kinds=_KINDS,
        gaps=gap_rows(pages),
        suites=[_suite_row(page) for page in pages],
        versions=_versions(pages),
        commands=[
            *(f"compatbench run --suite {check_name(page.name, 'suite')}" for page in pages),
            "compatbench report",
        ],
        data=_json([board.as_json() for board in boards]),
        style=_raw(style),
        script=_raw(script),
        style_hash=_source_hash(style),
        script_hash=_source_hash(script),
    )
    return text.rstrip() + "\n"


def _sections(
    drawings: Sequence[Drawing], figures: Mapping[str, bytes], sheets: list[str]
) -> list[PageSection]:
    sections = []
    for kind, title in TITLES.items():
        found = [one for one in drawings if one.section == kind]
        shown = []
        for one in found:
            if one.missing:
                continue
            number = len(sheets)
            markup, sheet = inline_svg(figures[one.name].decode(), f"f{number}")
            sheets.append(sheet)
            shown.append(PageFigure(one.name, one.heading, f"{one.name}.svg", _raw(markup)))
        missing = [f"{one.heading}: {one.missing}." for one in found if one.missing]
        if not found:
            missing = [_MAKE.get(kind, "No suite here has such results.")]
        if found or kind != "steps":
            width = _WIDTHS.get(kind, "")
            sections.append(PageSection(kind, title, _TEXTS[kind], shown, missing, width))
    return sections


def _layer_section(analyses: Mapping[str, bytes]) -> PageSection:
    shown = []
    for number, (caption, svg) in enumerate(analyses.items(), 1):
        # As an image it can run nothing, whatever the file holds.
        address = "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
        markup = _raw('<img alt="{}" src="{}">').format(caption, address)
        shown.append(PageFigure(f"layers-{number}", caption, "docs/analysis/", markup))
    missing = [] if shown else [
        "No such figures in docs/analysis/; 'compatbench analyze page docs/analysis.md' makes "
        "them, with the weights of both models."
    ]  # fmt: skip
    return PageSection("layers", "Layer by layer", _LAYERS, shown, missing, "broad")


def _suite_row(page: SuitePage) -> tuple[str, ...]:
    methods = page.results.all
    texts = [write_csv(one.rows, Row) + write_csv(one.costs, Cost) for one in methods]
    return (
        one_line(page.title),
        page.name,
        f"{len(methods)}",
        f"{sum(len(one.rows) for one in methods):,}",
        f"{len(page.expected.tasks)}",
        ", ".join(str(show_shots(count)) for count in page.expected.shots),
        ", ".join(map(str, page.expected.seeds)),
        sha256_bytes(*(text.encode() for text in texts))[:16],
    )


def _versions(pages: Sequence[SuitePage]) -> list[tuple[str, str]]:
    methods = [method for page in pages for method in page.results.all]
    joined = join_provenance(method.provenance for method in methods)
    rows = [(one_line(name), one_line(", ".join(values))) for name, values in joined.items()]
    return [*rows, ("this page", f"compatbench {compatbench.__version__}")]


def _json(value: Any) -> Any:
    """JSON that can stand in a script element: no ``<``, so that nothing can end it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return _raw(text)


def _source_hash(text: str) -> str:
    """What a content security policy calls an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _raw(markup: str) -> Any:
    from markupsafe import Markup

    return Markup(markup)


def _file(name: str) -> str:
    return (
        resources.files("compatbench.pages.report")
        .joinpath(name)
        .read_text(encoding="utf-8")
        .strip()
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_file("page.html"))
