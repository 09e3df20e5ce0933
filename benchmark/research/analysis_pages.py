"""Write the generated sections of docs/analysis.md, and the figure of the layers.

python benchmark/research/analysis_pages.py
python benchmark/research/analysis_pages.py --only claims
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from compatbench.data.cards import select_names, suite_cards
from compatbench.extras.studies.claims import ClaimsReport, analyze_claims, show_effect
from compatbench.extras.studies.frames import StudyReport
from compatbench.extras.studies.layers import analyze_layers
from compatbench.files.atomic import write_atomic
from compatbench.results.expected import upgrade_pairs
from compatbench.tables.markdown import fill_section
from compatbench.tables.table import Table, TableCell, plain_table, records, text

PAGE = Path(__file__).parents[2] / "docs" / "analysis.md"
SECTIONS = ("layers", "claims", "readings")  # in the order of the page
HIGHEST = " has the highest H"


@dataclass(frozen=True)
class ReadingsReport(StudyReport):
    """The verdicts on claim 3 for every reading of ContCoOp, with a column for each upgrade."""

    upgrades: Sequence[ClaimsReport]

    def tables(self) -> list[Table]:
        """Return one table, with a row for each reading."""
        effects: dict[str, list[TableCell]] = {}  # by reading, one of each upgrade
        rivals: set[str] = set()
        limits: set[str] = set()
        for report in self.upgrades:
            for finding in records(report.findings.query("claim == 3")):
                rivals.add(finding["data"].partition(";")[0])
                limits.update((finding["why"] or "").split("; "))
                effect = text(show_effect(finding))
                if finding["verdict"] != "not decided":
                    effect = text(f"{effect.text} {finding['verdict']}").bold()
                reading = finding["says"].removesuffix(HIGHEST)
                effects.setdefault(reading, []).append(effect)
        limits.discard("")
        first = self.upgrades[0]
        head = (
            f"Claim 3 ({HIGHEST.strip()}), {' or '.join(sorted(rivals))}: suite {first.suite}, "
            f"{first.shots} shots, {first.over}; points of H:"
        )
        header = ["Reading"]
        for report in self.upgrades:
            header.append(" → ".join(report.upgrade))
        rows = [[reading, *cells] for reading, cells in effects.items()]
        chance = f"{len(rows)} intervals of 95 % for each upgrade: some leave 0 out by chance"
        notes = [*sorted(limits), chance]
        return [plain_table(header, rows, range(len(header)), head, notes)]


def write_sections(
    path: Path, only: str = "all", suite: str = "mini", out: Path = Path(), device: str = "auto"
) -> Iterator[str]:
    """Write the sections that a page has markers for, and their figures in a folder beside it.

    Args:
        path: the page.
        only: names and globs of the sections.
        suite, out, device: as for ``make_reports``.

    Yields:
        The name of each section, once it is written.
    """
    content = path.read_text(encoding="utf-8")
    marked = [name for name in SECTIONS if f"<!-- {name}:" in content]
    for name in marked:
        fill_section(content, name, "")  # broken markers fail before the work
    for name in select_names(only, marked, "section of this page"):
        reports = make_reports(name, suite, out, device)
        body = "\n\n".join(report.markdown() for report in reports)
        figure = path.with_suffix("") / f"{name}.svg"
        if reports[0].save_figure(figure):
            body = f"![{reports[0].alt_text}]({path.stem}/{figure.name})\n\n{body}"
        content = fill_section(content, name, body)
        write_atomic(path, content.encode())
        yield name


def make_reports(name: str, suite: str, out: Path, device: str) -> Sequence[StudyReport]:
    """Return the reports that a section shows.

    Args:
        name: the section.
        suite: the suite of the results; the readings are in ``<suite>-ablation``.
        out: the folder of ``results/``.
        device: where the layers are compared.
    """
    if name == "claims":
        return analyze_claims(suite, out)
    if name == "readings":
        return [ReadingsReport(analyze_claims(f"{suite}-ablation", out))]
    upgrades = upgrade_pairs(suite_cards.read(suite).upgrades)
    source, target = upgrades[0]
    return [analyze_layers(source, target, suite=suite, device=device)]


def main(
    path: Path = PAGE,
    suite: str = "mini",
    only: str = "all",
    out: Path = Path(),
    device: str = "auto",
) -> None:
    """Write tables and figures between the markers of a page."""
    for name in write_sections(path, only, suite, out, device):
        print(f"wrote {name} into {path}")


if __name__ == "__main__":
    typer.run(main)
