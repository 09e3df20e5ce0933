"""Make the sections of docs/findings.md on the founding paper: claims, readings and layers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from compatbench.data.cards import suite_cards
from compatbench.extras.studies.claims import (
    ClaimsReport,
    analyze_claims,
    read_evidence,
    show_effect,
)
from compatbench.extras.studies.frames import Row, decimals, find_collapsed
from compatbench.extras.studies.layers import analyze_layers
from compatbench.messages import count, is_or_are
from compatbench.results.estimate import estimate, interval_columns
from compatbench.results.result_files import ResultFiles
from compatbench.results.ties import ALPHA, holm, paired_test
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import NOTHING, with_interval
from compatbench.tables.suite_page import read_suite_page
from compatbench.tables.table import TableCell, plain_table, records, sentence, text

ROOT = Path(__file__).parents[2]
SUITE = "mini"
READINGS = "mini-ablation"  # the suite of ContCoOp's readings
EVA = "eva-clip"  # in the names of targets of this kind
LONGEST = 400  # characters of a cell or a note


def make_sections() -> dict[str, str]:
    """Return the sections by name."""
    # The paper's claims are about an upgrade to EVA-CLIP.
    claims = [report for report in analyze_claims(SUITE, ROOT) if EVA in report.upgrade[-1]]
    source, target = claims[0].upgrade
    return {
        "claims-answer": describe_verdicts(claims),
        "claims": show_claims(claims),
        "readings": show_readings(compare_readings(READINGS), READINGS),
        "layers": show_layers(analyze_layers(source, target, suite=SUITE).changes),
    }


def describe_verdicts(reports: list[ClaimsReport]) -> str:
    """Return how many verdicts there are, and which claims are supported or contradicted.

    These have their limits in brackets.
    """
    targets: dict[str, dict[str, list[str]]] = {}
    total = 0
    for report in reports:
        for finding in records(report.findings):
            remarks = list_limits(finding)
            if finding["claim"] not in (1, 3):  # their data are counts of methods, and ranks
                remarks = [finding["data"], *remarks]
            claim = finding["says"]
            if remarks:
                claim += f" ({'; '.join(remarks)})"
            of_verdict = targets.setdefault(finding["verdict"], {})
            of_verdict.setdefault(claim, []).append(f"`{report.upgrade[-1]}`")
            total += 1
    counts = {verdict: sum(map(len, claims.values())) for verdict, claims in targets.items()}
    undecided = counts.get("not decided", 0)
    lines = [f"Of {count(total, 'verdict')}, {undecided} {is_or_are(undecided)} not decided."]
    for verdict in ("supported", "contradicted"):
        claims = targets.get(verdict, {})
        shown = [f"{claim}, on {' and '.join(names)}" for claim, names in claims.items()]
        lines.append(f"* {verdict.capitalize()}: {'; '.join(shown) or 'none'}.")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def show_claims(reports: list[ClaimsReport]) -> str:
    """Return a table with a row for each claim and a column for each upgrade."""
    limits: dict[str, list[str]] = {}
    rows = []
    for findings in zip(*(records(report.findings) for report in reports), strict=True):
        claim = findings[0]["says"]
        data = {finding["data"] for finding in findings}
        if len(data) == 1:
            claim += f": {data.pop()}"
        cells = [show_verdict(finding, with_data=bool(data)) for finding in findings]
        for report, finding in zip(reports, findings, strict=True):
            for limit in list_limits(finding):
                targets = limits.setdefault(f"{limit} (claim {finding['claim']}", [])
                if report.upgrade[-1] not in targets:
                    targets.append(report.upgrade[-1])
        rows.append([str(findings[0]["claim"]), claim, *cells])
    header = ["Claim", "What it says"]
    header += [f"Verdict for {report.upgrade[-1]}" for report in reports]
    methods = " and ".join(dict.fromkeys(str(report.complete) for report in reports))
    head = (
        f"Suite {SUITE}, {reports[0].shots} shots, {reports[0].over}, {methods} methods with "
        "complete results. A verdict is followed by the effect in points or percent, and its 95 % "
        "interval over tasks (claims 1 and 2: over methods and tasks)."
    )
    notes = [f"{limit} on {' and '.join(targets)})" for limit, targets in limits.items()]
    notes.append(list_collapsed(reports))
    table = plain_table(header, rows, range(len(header)), sentence(head), notes)
    return render_table(table, LONGEST)


def show_verdict(finding: Row, with_data: bool) -> TableCell:
    """Return a verdict with its effect, and with what it was computed from."""
    shown = show_effect(finding)
    if with_data:
        shown += f"; {finding['data']}"
    return sentence(text(finding["verdict"]).bold(), " ", text(shown))


def list_limits(finding: Row) -> list[str]:
    """Return what limits a verdict.

    Modules that cannot be attached are left out: the leaderboard names them. ``list_collapsed``
    names those that collapse.
    """
    limits = []
    for limit in filter(None, (finding["why"] or "").split("; ")):
        if not limit.startswith(("not counted", "of the ")):
            limits.append(limit)
    return limits


def list_collapsed(reports: list[ClaimsReport]) -> str:
    """Return a sentence that names the modules that collapse on each target."""
    page = read_suite_page(suite_cards.read(SUITE), ResultFiles(ROOT))
    named = []
    for report in reports:
        evidence = read_evidence(page, report.upgrade, report.shots)
        gains = evidence.scores["gain"].loc[evidence.methods].mean(axis="columns")
        titles = [evidence.title(str(name)) for name in sorted(find_collapsed(gains).index)]
        named.append(f"{', '.join(titles)} on {report.upgrade[-1]}")
    return f"these modules collapse (claims 1 and 2): {'; '.join(named)}"


def compare_readings(suite: str) -> pd.DataFrame:
    """Compare every reading of ContCoOp with the best method that is none, on each upgrade.

    Returns:
        A row per upgrade and reading: the ``difference`` of H from the ``rival`` with its interval
        over tasks, and ``p``, corrected for all rows (Holm).
    """
    page = read_suite_page(suite_cards.read(suite), ResultFiles(ROOT))
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
                    "target": upgrade[-1],
                    "reading": evidence.title(reading).removeprefix("ContCoOp, "),
                    "rival": evidence.title(rival),
                    **interval_columns("difference", difference),
                    "p": p_value,
                }
            )
    frame = pd.DataFrame(rows)
    frame["p"] = holm(list(frame["p"]))
    return frame


def show_readings(differences: pd.DataFrame, suite: str) -> str:
    """Return a paragraph on the readings whose H differs significantly from the rival's."""
    rivals = " or ".join(sorted(set(differences["rival"])))
    differs = differences["p"] < ALPHA
    better = differences[differs & (differences["difference"] > 0)]
    worse = differences[differs & (differences["difference"] < 0)]
    readings = differences["reading"].nunique()
    return (
        f"Suite `{suite}` has {count(readings, 'reading')}, with one seed. Their H is compared "
        f"with that of {rivals}, the best other method there. Significantly higher: "
        f"{_list_readings(better)}. Significantly lower: {_list_readings(worse)} (points; Holm's "
        f"correction over {len(differences)} comparisons)."
    )


def _list_readings(rows: pd.DataFrame) -> str:
    """Return the readings with their differences; *none* if there are none."""
    shown = []
    for row in records(rows):
        shown.append(f"`{row['reading']}` {with_interval(row, 'difference')} on `{row['target']}`")
    return ", ".join(shown) or "none"


def show_layers(changes: pd.DataFrame) -> str:
    """Return a table of the changes of both towers, layer by layer."""
    texts = records(changes[changes["tower"] == "text"])
    images = records(changes[changes["tower"] == "image"])
    rows = []
    for of_text, of_image in zip(texts, images, strict=True):
        row = [of_text["layer"], show_share(of_text["parameter_relative"])]
        row += [show_share(of_text["feature_relative"]), decimals(of_text["cka"], digits=2)]
        row.append(decimals(of_image["cka"], digits=2))
        rows.append(row)
    header = ["Layer", "text: parameters", "text: features", "text: CKA", "image: CKA"]
    return render_table(plain_table(header, rows))


def show_share(share: float | None) -> str:
    """Return a share in percent."""
    return NOTHING if share is None else f"{100 * share:.0f} %"
