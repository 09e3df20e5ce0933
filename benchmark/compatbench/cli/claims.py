"""``compatbench claims``: the paper's claims, held against results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.data.cards import suite_cards
from compatbench.errors import CompatbenchError
from compatbench.pages import markdown
from compatbench.pages.suite_page import RESULTS, read_suite_page
from compatbench.results.bootstrap import Interval
from compatbench.studies.claims import check_claims
from compatbench.studies.verdicts import ClaimsReport, Finding

STYLES = {"supported": "green", "contradicted": "red", "not decided": "yellow"}


def claims_command(
    console: Console, *, suite: str, out: Path, as_markdown: bool, as_json: bool
) -> None:
    """Prints every claim with its data, effect, interval and verdict.

    Raises:
        CompatbenchError: no such suite, no results of it, or a broken results file.
    """
    reports = read_reports(suite, out)
    if as_json:
        print(json.dumps([_as_json(one) for one in reports], indent=1, ensure_ascii=False))
    elif as_markdown:
        # Not through the console, which would wrap it.
        print("\n\n".join(render_markdown(one) for one in reports))
    else:
        for report in reports:
            _print_report(console, report)


def read_reports(suite: str, out: Path) -> list[ClaimsReport]:
    """The claims at the largest number of shots, one report for each upgrade of a suite.

    Raises:
        CompatbenchError: as above.
    """
    page = read_suite_page(suite_cards.read(suite), out)
    if not page.results.methods:
        raise CompatbenchError(
            f"{out / RESULTS / page.name} holds no results; start with "
            f"'compatbench run --suite {page.name}'"
        )
    shots = max(page.expected.shots)
    return [check_claims(page, upgrade, shots) for upgrade in page.expected.upgrades]


def render_markdown(report: ClaimsReport) -> str:
    """The table of one upgrade; the same results give the same text."""
    rows = [
        [
            str(one.claim),
            markdown.escape(one.says),
            markdown.escape(one.data + (f" ({one.why})" if one.why else ""), longest=400),
            markdown.escape(describe_effect(one)),
            f"**{one.verdict}**",
        ]
        for one in report.findings
    ]
    header = ["Claim", "What it says", "Data", "Effect, 95 % interval", "Verdict"]
    return "\n".join([f"{_head(report)}:", "", *markdown.table(header, rows, left=range(5))])


def describe_effect(finding: Finding) -> str:
    """``+1.2 points (-0.3 to +2.5)``; shares in percent."""
    effect = finding.effect
    if effect is None:
        return markdown.NOTHING
    share = finding.unit.startswith("of ")
    show = _percent if share else _points
    unit = f"% {finding.unit}" if share else finding.unit
    interval = f" ({show(effect.low)} to {show(effect.high)})" if effect.bounded else ""
    return f"{show(effect.value)} {unit}{interval}"


def _points(value: float) -> str:
    return f"{value:+.1f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"


def _head(report: ClaimsReport) -> str:
    done, total = report.coverage
    source, target = report.upgrade
    return (
        f"Suite {report.suite}, {source} → {target}, {report.shots} shots, "
        f"{done} of {total} methods complete"
    )


def _print_report(console: Console, report: ClaimsReport) -> None:
    console.print(f"[bold]{escape(_head(report))}[/]", highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 1, 0))
    for column in ("", "claim", "data", "effect, 95 % interval", "verdict"):
        table.add_column(column, overflow="fold")
    for one in report.findings:
        data = one.data + (f" ({one.why})" if one.why else "")
        cells: Sequence[str] = (str(one.claim), one.says, data, describe_effect(one))
        table.add_row(*map(escape, cells), f"[{STYLES[one.verdict]}]{one.verdict}[/]")
    console.print(table)


def _as_json(report: ClaimsReport) -> dict[str, Any]:
    findings = [asdict(one) | {"effect": _bounds(one.effect)} for one in report.findings]
    return asdict(report) | {"findings": findings}


def _bounds(effect: Interval | None) -> dict[str, float | None] | None:
    """JSON knows no infinity."""
    if effect is None:
        return None
    bounded = effect.bounded
    return {
        "value": effect.value,
        "low": effect.low if bounded else None,
        "high": effect.high if bounded else None,
    }
