"""The tables of what a suite asks beyond a ranking: steps, shots, ablations, retraining, kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from compatbench.data.shots import show_shots
from compatbench.pages.cells import column, method_cell, setting_cell, value
from compatbench.pages.markdown import (
    NOTHING,
    bounds,
    code,
    escape,
    percent,
    signed,
    table,
)
from compatbench.pages.suitepage import SuitePage
from compatbench.results.bootstrap import Interval
from compatbench.results.intervals import paired_interval
from compatbench.results.measures import Measure, Upgrade, compute_standing
from compatbench.results.paths import change_per_step, changes, follow_path
from compatbench.results.retained import compute_retained
from compatbench.results.store import MethodResults


def path_table(
    page: SuitePage, path: Sequence[str], shots: int, figure: Literal["accuracy", "gain"]
) -> list[str]:
    """A figure of every method at every model of a path, with what each step changes.

    Methods are in the order of H at the path's last model.
    """
    show = percent if figure == "accuracy" else signed
    rows = []
    for one in page.ranks((path[0], path[-1]), shots):
        method = page.results.methods[one.standing.info.name]
        steps = follow_path(method, page.expected, path, shots)
        values = [value(getattr(step, figure)) for step in steps]
        cells = [show(values[0])]
        for after, change in zip(values[1:], changes(values), strict=True):
            cells.append(show(after) + (f" ({signed(change)})" if change is not None else ""))
        rows.append([method_cell(one.standing), *cells, signed(change_per_step(values))])
    titles = [escape(page.backbone_title(name)) for name in path]
    return table(["Method", *titles, "Per step"], rows)


def shots_table(page: SuitePage, upgrade: Upgrade, measure: Measure) -> list[str]:
    """A measure against the number of training images per class.

    Methods are in the order of H at the largest number.
    """
    counts = sorted(page.expected.shots)
    methods = [
        page.results.methods[one.standing.info.name] for one in page.ranks(upgrade, counts[-1])
    ]
    columns = [[method_cell(one.standing) for one in page.ranks(upgrade, counts[-1])]]
    for count in counts:
        columns.append(
            column([one.mean(measure) for one in page.standings(methods, upgrade, count)])
        )
    header = ["Method", *(f"{show_shots(count)}" for count in counts)]
    return table(header, list(zip(*columns, strict=True)))


def ablation_table(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    """Every named config against the method that it sets: the mean differences over datasets.

    A difference whose 95 % interval does not hold 0 is in bold.
    """
    rows = []
    for name, base_name in page.configs.items():
        config, base = (page.results.methods.get(one) for one in (name, base_name))
        if config is None:
            continue
        changed = _changes(config, base) if base else NOTHING
        differences = {
            measure: _difference(page, config, base, upgrade, shots, measure)
            for measure in ("source", "target", "h")
        }
        rows.append(
            [
                escape(config.info.title),
                changed,
                *(_marked(one) for one in differences.values()),
                bounds(differences["h"], signed),
            ]
        )
    header = ["Config", "Change", "Source", "Target", "H", "95 % of H"]
    return table(header, rows, left=(0, 1))


def _difference(
    page: SuitePage,
    config: MethodResults,
    base: MethodResults | None,
    upgrade: Upgrade,
    shots: int,
    measure: Measure,
) -> Interval | None:
    if base is None:
        return None
    one, other = (compute_standing(m, page.expected, upgrade, shots) for m in (config, base))
    return paired_interval(one, other, measure)


def _changes(config: MethodResults, base: MethodResults) -> str:
    """``attention: self → prompts``, for every setting that differs."""
    parts = [
        f"{code(name)}: {setting_cell(base.config.get(name))} → {setting_cell(setting)}"
        for name, setting in sorted(config.config.items())
        if setting != base.config.get(name)
    ]
    return "; ".join(parts) or NOTHING


def _marked(difference: Interval | None) -> str:
    if difference is None:
        return NOTHING
    shown = signed(difference.value)
    return f"**{shown}**" if difference.sign else shown


def retained_table(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    """The gain of the old module beside that of one retrained on the target.

    Methods are in the order of the main table; those that learn nothing are left out.
    """
    rows = []
    for one in page.ranks(upgrade, shots):
        if not one.standing.info.learns:
            continue
        method = page.results.methods[one.standing.info.name]
        found = compute_retained(method, page.expected, upgrade, shots)
        rows.append(
            [
                method_cell(one.standing),
                signed(value(found.attached)),
                signed(value(found.retrained)),
                NOTHING if found.kept is None else f"{found.kept.value:.0f} %",
                bounds(found.kept, _whole),
            ]
        )
    return table(["Method", "Old module", "Retrained", "Kept", "95 % of kept"], rows)


def _whole(share: float | None) -> str:
    return NOTHING if share is None else f"{round(share) + 0:.0f}"
