"""Writes the generated sections of docs/analysis.md and docs/alignment.md, and their figures.

python benchmark/research/analysis_pages.py docs/analysis.md
python benchmark/research/analysis_pages.py docs/alignment.md --only rotated
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer
from gauge import analyze_gauge
from rich.console import Console
from stress import analyze_stress
from typing_extensions import Unpack
from words_gains import study_gains

from compatbench.data.cards import select_names, suite_cards
from compatbench.extras.studies.claims import ClaimsReport, analyze_claims, show_effect
from compatbench.extras.studies.classes import analyze_classes
from compatbench.extras.studies.depth import analyze_depth
from compatbench.extras.studies.embeddings import analyze_embeddings
from compatbench.extras.studies.frames import StudyReport
from compatbench.extras.studies.layers import analyze_layers
from compatbench.extras.studies.study import StudyOptions
from compatbench.files.atomic import write_atomic
from compatbench.results.expected import upgrade_pairs
from compatbench.runs.progress import RunProgress
from compatbench.tables.markdown import fill_section
from compatbench.tables.table import Cell, Table, plain_table, records, text

# What the stress tests of the page look at: a method of each kind, and prompts beside them.
STRESS_METHODS = "linear_probe,simpleshot,gda,clip_adapter,taskres,tip_adapter_f,kgcoop"
# The sections, in the order of the pages.
SECTIONS = (
    *("layers", "depth", "embeddings", "claims", "readings", "classes"),
    *("gauge", "rotated", "gains", "sizes", "words"),
)
HIGHEST = " has the highest H"


@dataclass(frozen=True)
class ReadingsReport(StudyReport):
    """Claim 3 of every reading of ContCoOp in a suite, a column for each of its upgrades."""

    upgrades: Sequence[ClaimsReport]

    def tables(self) -> list[Table]:
        first, cells = self.upgrades[0], dict[str, list[Cell]]()
        rivals, limits = set[str](), set[str]()
        for report in self.upgrades:
            for finding in records(report.findings.query("claim == 3")):
                rivals.add(finding["data"].partition(";")[0])
                limits |= {*(finding["why"] or "").split("; ")} - {""}
                effect = text(show_effect(finding))
                if finding["verdict"] != "not decided":
                    effect = text(f"{effect.text} {finding['verdict']}").bold()
                cells.setdefault(finding["says"].removesuffix(HIGHEST), []).append(effect)
        header = ["Reading", *(" → ".join(each.upgrade) for each in self.upgrades)]
        head = f"Claim 3 ({HIGHEST.strip()}), {' or '.join(sorted(rivals))}: suite {first.suite}, "
        head += f"{first.shots} shots, {first.over}; points of H:"
        rows = [[reading, *of] for reading, of in cells.items()]
        chance = f"{len(rows)} intervals of 95 % for each upgrade: some leave 0 out by chance"
        return [plain_table(header, rows, range(len(header)), head, [*sorted(limits), chance])]


def write_sections(
    path: Path,
    only: str = "all",
    tasks: str | None = None,
    steps: int = 100,
    **options: Unpack[StudyOptions],
) -> Iterator[str]:
    """Writes the sections that a page has markers for, and their figures in a folder beside it.

    Args:
        only: names and globs of the sections.
        tasks, steps: of the depth study.

    Yields:
        The name of each section that was written.
    """
    text = path.read_text(encoding="utf-8")
    sections = _sections(tasks, steps, options)
    there = [name for name in SECTIONS if f"<!-- {name}:" in text]
    for name in there:
        fill_section(text, name, "")  # broken markers fail before the work
    for name in select_names(only, there, "section of this page"):
        reports = sections[name]()
        body = "\n\n".join(report.markdown() for report in reports)
        figure = path.with_suffix("") / f"{name}.svg"
        if reports[0].save_figure(figure):
            body = f"![{reports[0].figure_kind.alt}]({path.stem}/{figure.name})\n\n{body}"
        text = fill_section(text, name, body)
        write_atomic(path, text.encode())
        yield name


def _sections(
    tasks: str | None, steps: int, options: StudyOptions
) -> dict[str, Callable[[], Sequence[StudyReport]]]:
    """What each section shows."""
    suite, out = suite_cards.read(options.get("suite", "mini")), options.get("out", ".")
    pairs = upgrade_pairs(suite.upgrades)
    first, seeds = pairs[0], suite.seeds[:1]
    stress = partial(analyze_stress, methods=STRESS_METHODS, seeds=seeds, **options)
    return {
        "layers": lambda: [analyze_layers(*first, **options)],
        "depth": lambda: [analyze_depth(*first, tasks, steps=steps, **options)],
        "embeddings": lambda: [analyze_embeddings(*first, **options)],
        "claims": lambda: analyze_claims(suite, out),
        "readings": lambda: [ReadingsReport(analyze_claims(f"{suite.name}-ablation", out))],
        "classes": lambda: [
            analyze_classes(f"{suite.name}-{name}", out) for name in ("base-to-new", "cross")
        ],
        "gauge": lambda: [analyze_gauge(*p, **options) for p in study_gains(suite, out).gains],
        "rotated": lambda: [stress(*first, "rotated")],
        "gains": lambda: [study_gains(suite, out)],
        "sizes": lambda: [stress(*pair, "sizes") for pair in pairs],
        "words": lambda: [stress(*pair, "words") for pair in pairs],
    }


def main(
    path: Path,
    suite: str = "mini",
    tasks: str = "mini-food,mini-weather",
    only: str = "all",
    steps: int = 100,
    out: Path = Path(),
    jobs: int | None = None,
    device: str = "auto",
) -> None:
    """Write tables and figures between the markers of a page; fits that are stored are not run."""
    with RunProgress(Console(stderr=True)) as progress:
        given = StudyOptions(suite=suite, out=out, jobs=jobs, device=device)
        given |= {"on_start": progress.start_plan, "on_event": progress.on_event}
        for name in write_sections(path, only, tasks, steps, **given):
            print(f"wrote {name} into {path}")


if __name__ == "__main__":
    typer.run(main)
