"""``results/report/``: the results as a small site, and the figures as files beside it.

The site is ``index.html`` with its script and style, Vega to draw, and a file of data per suite;
it works from a file system and asks for nothing outside of its folder. The same results give the
same bytes. Texts of results and cards reach the page as data; a policy in the page allows the
scripts of the folder alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import compatbench
from compatbench.data.cards.shots import show_shots
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import files_below, kind_of, require
from compatbench.messages import count, one_line
from compatbench.results.result_files import FIGURES, REPORT, RESULTS, ResultFiles, check_name
from compatbench.tables.figures.charts import MARKS
from compatbench.tables.figures.colours import COLOURS, FAINT, INK, PAPER
from compatbench.tables.figures.figure_kinds import list_kinds
from compatbench.tables.figures.figure_list import plan_figures
from compatbench.tables.figures.render import FONT, check_drawing, compile_chart, name_program
from compatbench.tables.pages.method_pages import (
    find_judge,
    list_verdicts,
    read_facts,
    render_facts,
)
from compatbench.tables.pages.site_data import (
    CAPABILITIES,
    FIRST,
    ON_PHONE,
    Json,
    SiteColumns,
    choose_columns,
    describe_real_models,
    describe_suite,
    describe_survival,
    to_html,
)
from compatbench.tables.suite_page import SuitePage, read_suite_page, suites_with_results
from compatbench.tables.suite_tables import join_versions
from compatbench.tables.templates import read_source, template, write_changed

SOURCES = ("site.css", "site.js", "vega.min.js", "vega-interpreter.js", "LICENSE-vega")


@dataclass(frozen=True)
class Report:
    """The files of a site, lines on what the results do not give, and pages beside the site."""

    files: dict[Path, bytes]
    left_out: tuple[str, ...]
    pages: tuple[Path, ...] = ()
    checked: bool = False  # whether they were compared alone, and not written

    def parts(self) -> Iterator[str]:
        """Yield what a terminal shows: what is left out, and the first file of each kind."""
        verb = "is up to date" if self.checked else "written"
        yield from self.left_out
        if self.pages:
            others = count(len(self.pages) - 1, "other page")
            yield f"{self.pages[0]} {verb}, with {others}"
        site = next(path for path in self.files if path.name == "index.html")
        figures = [path for path in self.files if path.suffix == ".svg"]
        yield f"{site} {verb}, with {count(len(figures), 'figure')}"


def report_pages(files: ResultFiles, published: Sequence[SuitePage]) -> list[SuitePage]:
    """Return the suites of the leaderboard, each with its sections behind it, or all suites."""
    pages: list[SuitePage] = []
    for page in published:
        pages += [page, *page.sections]
    if not pages:
        pages = [read_suite_page(card, files) for card in suites_with_results(files.out)]
    measured = [page for page in pages if page.results.methods]
    if not measured:
        raise CompatbenchError(
            f"{files.out / RESULTS} holds no results; give the folder that holds results/ "
            "with --out, or start with 'compatbench run'"
        )
    return measured


def write_site(files: ResultFiles, published: Sequence[SuitePage], check: bool = False) -> Report:
    """Write the site and its figures, or compare them, as ``report`` does."""
    out = files.out
    made = make_report(files, published)
    there: set[Path] = set()
    for name in (FIGURES, REPORT):
        folder = require(out / RESULTS / name, "folder")
        there.update(files_below(folder))
    if check:
        for path, content in made.files.items():
            if kind_of(path) == "file":
                check_drawing(path, path.read_bytes(), content)
    require(out / RESULTS / REPORT / "data", "folder")
    write_changed(made.files, check)
    for path in sorted(there - set(made.files)):
        if check:
            raise CompatbenchError(f"{path} belongs to no results here; run 'compatbench report'")
        if path.parent.name in (FIGURES, "data") and path.suffix in (".svg", ".js"):
            require(path).unlink()
    return replace(made, checked=check)


def make_report(results: ResultFiles, published: Sequence[SuitePage]) -> Report:
    """Return the site and its figures as ``write_site`` writes them; nothing is written."""
    pages = report_pages(results, published)
    folder = results.out / RESULTS
    files: dict[Path, bytes] = {}
    left_out: list[str] = []
    for figure in plan_figures(pages):
        if figure.missing:
            left_out.append(f"{figure.name}.svg is left out: {figure.missing}")
        else:
            files[folder / FIGURES / f"{figure.name}.svg"] = figure.render()
    for name, content in render_site(pages).items():
        files[folder / REPORT / name] = content
    return Report(files, tuple(left_out))


def render_site(pages: Sequence[SuitePage]) -> dict[str, bytes]:
    """Return every file of the site by its path; the suites in this order."""
    settings: dict[str, int] = {}  # of methods, most of them alike in several suites
    columns = choose_columns(pages)
    suites = {}
    for page in pages:
        suites[page.card.name] = describe_suite(page, columns, settings)
    index = _describe_index(pages, suites, columns, settings)
    texts = {
        "index.html": _render_html(pages, columns).rstrip() + "\n",
        "index.js": f"{_script('index', index)}/* compiled {name_program()} */\n",
    }
    for name, suite in suites.items():
        texts[f"data/{check_name(name, 'suite')}.js"] = _script("suite", suite)
    for name in SOURCES:
        texts[name] = read_source(f"site/{name}") + "\n"
    return {name: text.encode() for name, text in texts.items()}


def _describe_index(
    pages: Sequence[SuitePage],
    suites: Mapping[str, Json],
    columns: SiteColumns,
    settings: Mapping[str, int],
) -> Json:
    """Return what all suites of the site share."""
    titles = []
    for page in pages:
        titles.append({"name": page.card.name, "title": one_line(page.card.title)})
    shown = []
    for column in columns.ranking:
        shown.append(
            {
                "title": column.title,
                "first": column.key in FIRST,
                "phone": column.key in ON_PHONE,
                "about": column.about,
                "down": column.descending or column.best,
                "text": column.left,
                "exact": column.exact,
            }
        )
    judge = find_judge(pages)
    return {
        "suites": titles,
        "columns": shown,
        "measures": list(columns.measures.values()),
        "settings": list(settings),
        "methods": _describe_methods(pages),
        "verdicts": list_verdicts(judge) if judge is not None else {},
        "specs": _compile_specs(suites),
        "captions": {kind.name: kind.caption for kind in list_kinds().values()},
        "colours": {"ink": INK, "line": FAINT, "paper": PAPER, **COLOURS},
        "font": FONT,
    }


def _compile_specs(suites: Mapping[str, Json]) -> dict[str, Json]:
    """Return the specification of each kind of figure that these suites have."""
    signals: dict[str, Json] = {}
    for suite in suites.values():
        for part in (suite, *suite["boards"]):
            for figure in part["figures"]:
                if not figure["missing"]:
                    signals[figure["kind"]] = figure["signals"]
    return {kind: _site_spec(kind, names) for kind, names in signals.items()}


def _render_html(pages: Sequence[SuitePage], columns: SiteColumns) -> str:
    judge = find_judge(pages)
    return template("site/index.html.jinja", autoescape=True).render(
        figure_kinds=list_kinds().values(),
        kinds={kind: mark.title for kind, mark in MARKS.items()},
        measures=list(columns.measures.values()),
        suites=[_suite_row(page) for page in pages],
        versions=_versions(pages),
        commands=[page.run_command() for page in pages],
        capabilities=CAPABILITIES,
        real_models=describe_real_models(pages),
        survival=describe_survival(judge) if judge is not None else None,
    )


def _describe_methods(pages: Sequence[SuitePage]) -> Json:
    """Return what each method of the project is, as HTML, if these results have it."""
    measured = {name for page in pages for name in page.results.methods}
    described = {}
    for name, facts in read_facts().items():
        if name in measured:
            described[name] = to_html(render_facts(facts, "###", whole=False), mixed=False)
    return described


def _script(name: str, content: Json) -> str:
    """Return data as a script, because a page of a file system can load nothing else."""
    # A line for every entry, so that a change is read in git.
    lines = [f"{json.dumps(key)}: {_dump(value)}" for key, value in content.items()]
    return f'"use strict";\ncompatbench.{name} = {{\n' + ",\n".join(lines) + "\n};\n"


def _dump(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        items = ",\n".join(map(_dump, value))
        return f"[\n{items}\n]"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _site_spec(kind: str, params: Iterable[str]) -> Json:
    """Return a compiled specification as wide as its place, on no ground of its own."""
    spec = compile_chart(list_kinds()[kind].draw(params), width="container")
    return {key: value for key, value in spec.items() if key not in ("$schema", "background")}


def _suite_row(page: SuitePage) -> tuple[str, ...]:
    modules = page.results.frame[["method", "transfer"]].drop_duplicates()
    without_rows = set(page.results.methods) - set(modules["method"])
    return (
        one_line(page.card.title),
        page.card.name,
        f"{len(modules) + len(without_rows)}",
        f"{len(page.results.frame):,}",
        f"{len(page.expected.tasks)}",
        ", ".join(str(show_shots(shots)) for shots in page.expected.shots),
        ", ".join(map(str, page.expected.seeds)),
        page.results.digest[:16],
    )


def _versions(pages: Sequence[SuitePage]) -> list[tuple[str, str]]:
    rows = []
    for name, values in join_versions(pages).items():
        rows.append((one_line(name), one_line(", ".join(values))))
    rows.append(("this page", f"compatbench {compatbench.__version__}"))
    return rows
