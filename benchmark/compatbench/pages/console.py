"""The main table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compatbench.data.shots import count_shots
from compatbench.pages.markdown import (
    NOTHING,
    fit_time,
    one_line,
    parameters,
    percent,
    signed,
    spread,
)
from compatbench.pages.suitepage import SuitePage
from compatbench.results.gaps import find_gaps
from compatbench.results.measures import Mean, Upgrade
from compatbench.results.ranks import Ranked, rank_methods

# What matters less gives way in a narrow terminal: first the costs, then the spread.
_COST_WIDTH = 96
_SPREAD_WIDTH = 76


def print_main_table(console: Console, page: SuitePage) -> None:
    """Prints the main table of every upgrade, at the largest number of shots, and what lacks."""
    shots = max(page.expected.shots)
    for upgrade in page.expected.upgrades:
        ranks = page.ranks(upgrade, shots)
        if ranks or not page.aligned:
            console.print(_table(page, upgrade, shots, console.width, ranks))
        if page.aligned:
            aligned = rank_methods(page.standings(page.aligned, upgrade, shots))
            console.print(_table(page, upgrade, shots, console.width, aligned, ", through a map"))
            ranks = [*ranks, *aligned]
        for standing in (one.standing for one in ranks):
            title = one_line(standing.title)
            if standing.state == "not transferable":
                reasons = "; ".join(map(one_line, standing.reasons))
                cells = f"{standing.refused} of {standing.coverage[1]} cells"
                text = f"{title}: not transferable in {cells}: {reasons}"
                console.print(Text(text, style="yellow"))
            elif standing.state == "incomplete":
                done, wanted = standing.coverage
                text = f"{title}: {done} of {wanted} cells measured, so no mean is given"
                console.print(Text(text, style="yellow"))
    for gap in find_gaps(page.results, page.expected):
        title = one_line(gap.title)
        reason = f": {one_line(gap.reason)}" if gap.reason else ""
        style = "red" if gap.kind == "failed" else "yellow"
        rows = "1 row" if len(gap.places) == 1 else f"{len(gap.places):,} rows"
        console.print(Text(f"{title}: {rows} {gap.kind}{reason}", style=style))


def _table(
    page: SuitePage,
    upgrade: Upgrade,
    shots: int,
    width: int,
    ranks: Sequence[Ranked],
    what: str = "",
) -> Table:
    source, target = (one_line(page.backbone_title(name)) for name in upgrade)
    title = Text(f"{source} → {target}, {count_shots(shots)}{what}")
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("", justify="right", no_wrap=True, min_width=3)
    table.add_column("method", overflow="ellipsis", no_wrap=True)
    for name in ("source", "target", "H", "gain"):
        table.add_column(name, justify="right", no_wrap=True, min_width=5)
    if width >= _COST_WIDTH:
        table.add_column("parameters", justify="right", no_wrap=True)
        table.add_column("fit", justify="right", no_wrap=True)

    def show(mean: Mean | None) -> str:
        return spread(mean) if width >= _SPREAD_WIDTH else percent(_value(mean))

    best = max((h.value for one in ranks if (h := one.standing.mean("h"))), default=None)
    for one in ranks:
        standing = one.standing
        h = standing.mean("h")
        floor = " (floor)" if standing.info.depth == "none" else ""
        cells = [
            Text(one.rank or NOTHING),
            Text(one_line(standing.title) + floor),
            Text(show(standing.mean("source"))),
            Text(show(standing.mean("target"))),
            Text(show(h), style="bold green" if h and h.value == best else ""),
            Text(signed(_value(standing.mean("gain")))),
        ]
        if width >= _COST_WIDTH:
            cells += [Text(parameters(standing)), Text(fit_time(standing))]
        table.add_row(*cells)
    return table


def _value(mean: Mean | None) -> float | None:
    return None if mean is None else mean.value
