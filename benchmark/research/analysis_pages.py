"""Write the generated sections of docs/analysis.md, and the figure of the layers.

python benchmark/research/analysis_pages.py
python benchmark/research/analysis_pages.py --only claims
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import typer

from compatbench.data.cards import select_names, suite_cards
from compatbench.extras.studies.claims import analyze_claims, read_evidence
from compatbench.extras.studies.frames import StudyReport
from compatbench.extras.studies.layers import analyze_layers
from compatbench.files.atomic import write_atomic
from compatbench.messages import count
from compatbench.results.estimate import estimate, interval_columns
from compatbench.results.expected import upgrade_pairs
from compatbench.results.result_files import ResultFiles
from compatbench.results.ties import ALPHA, holm, paired_test
from compatbench.tables.markdown import fill_section
from compatbench.tables.numbers import signed, with_interval
from compatbench.tables.suite_page import read_suite_page
from compatbench.tables.table import Table, plain_table, records

PAGE = Path(__file__).parents[2] / "docs" / "analysis.md"
SECTIONS = ("layers", "claims", "readings")  # in the order of the page


@dataclass(frozen=True)
class ReadingsReport(StudyReport):
    """Every reading of ContCoOp in a suite beside the best method that is none.

    Attributes:
        over: shots, tasks and seeds.
        differences: a row per upgrade and reading: the ``difference`` of H from the ``rival`` with
            its interval over tasks, and ``p``, corrected for all rows (Holm).
    """

    over: str
    differences: pd.DataFrame

    def tables(self) -> list[Table]:
        """Return one row per upgrade: the readings that differ significantly, and the others."""
        rows = []
        for upgrade, of_upgrade in self.differences.groupby("upgrade", sort=False):
            differs = of_upgrade["p"] < ALPHA
            better = of_upgrade[differs & (of_upgrade["difference"] > 0)]
            worse = of_upgrade[differs & (of_upgrade["difference"] < 0)]
            others = of_upgrade.loc[~differs, "difference"]
            spread = f"{len(others)}: {signed(others.min())} to {signed(others.max())}"
            rows.append([upgrade, _list_readings(better), _list_readings(worse), spread])
        rivals = " or ".join(sorted(set(self.differences["rival"])))
        header = ["Upgrade", "H higher", "H lower", "difference of the others"]
        head = (
            f"Readings whose H differs significantly from that of {rivals} ({self.over}; points, "
            "95 % intervals over tasks; Holm's correction over "
            f"{len(self.differences)} comparisons):"
        )
        return [plain_table(header, rows, range(len(header)), head)]


def _list_readings(rows: pd.DataFrame) -> str:
    """Return the readings with their differences; *none* if there are none."""
    shown = []
    for row in records(rows):
        shown.append(f"{row['reading']} {with_interval(row, 'difference')}")
    return "; ".join(shown) or "none"


def compare_readings(suite: str, out: Path) -> ReadingsReport:
    """Compare every reading of ContCoOp with the best method that is none, on each upgrade."""
    page = read_suite_page(suite_cards.read(suite), ResultFiles(out))
    shots = max(page.expected.shots)
    rows = []
    for upgrade in page.expected.upgrades:
        evidence = read_evidence(page, upgrade, shots)
        h = evidence.scores["h"]
        rivals = [name for name in evidence.methods if name not in evidence.readings]
        rival = str(h.loc[rivals].mean(axis="columns").idxmax())
        p_values = paired_test(h.loc[[rival, *evidence.readings]])
        for reading, p_value in zip(evidence.readings, p_values, strict=True):
            difference = estimate((h.loc[reading] - h.loc[rival]).to_numpy())
            rows.append(
                {
                    "upgrade": " → ".join(upgrade),
                    "reading": evidence.title(reading).removeprefix("ContCoOp, "),
                    "rival": evidence.title(rival),
                    **interval_columns("difference", difference),
                    "p": p_value,
                }
            )
    frame = pd.DataFrame(rows)
    frame["p"] = holm(list(frame["p"]))
    seeds = count(len(page.expected.seeds), "seed")
    over = f"suite {suite}, {shots} shots, {count(len(page.expected.tasks), 'task')}, {seeds}"
    return ReadingsReport(over, frame)


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
        return [compare_readings(f"{suite}-ablation", out)]
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
