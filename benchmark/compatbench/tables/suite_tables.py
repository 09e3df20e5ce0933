"""The tables of a suite besides its ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from compatbench.data.cards.shots import show_shots
from compatbench.results.ablation import DIFFERENCES, compare_configs
from compatbench.results.expected import Upgrade
from compatbench.results.ranking import rank_transfer
from compatbench.results.retained import measure_retained
from compatbench.results.stored_method import join_provenance
from compatbench.results.upgrade_paths import follow_path
from compatbench.tables.numbers import NOTHING, interval_text, percent, share, signed
from compatbench.tables.ranking_tables import method_cell
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import (
    Table,
    TableCell,
    code,
    number,
    plain_table,
    records,
    sentence,
    text,
)
from compatbench.tables.templates import show_setting


def join_versions(pages: Iterable[SuitePage]) -> dict[str, tuple[str, ...]]:
    """Return versions and processors of all rows of some suites; several values if they differ."""
    provenances = []
    for page in pages:
        for method in page.results.methods.values():
            provenances.append(method.provenance)
    return join_provenance(provenances)


def path_table(
    page: SuitePage, path: Sequence[str], shots: int, name: Literal["accuracy", "gain"]
) -> Table:
    """Return accuracy or gain of every method at every model of a path, and the change per step.

    Methods are in the order of H at the path's last model.
    """
    show = percent if name == "accuracy" else signed
    rows = []
    along = follow_path(page.results, page.expected, path, shots)
    for _, method_rows in along.groupby("method", sort=False):
        steps = records(method_rows)
        cells = []
        for step in steps:
            shown = show(step[name])
            change = step[f"{name}_change"]
            if change is not None:
                shown += f" ({signed(change)})"
            value = step[name] if step["step"] else None
            cells.append(number(shown, value))
        per_step = number(signed(steps[0][f"{name}_per_step"]))
        rows.append([method_cell(steps[0]), *cells, per_step])
    return plain_table(["Method", *map(page.backbone_title, path), "Per step"], rows)


def shots_table(page: SuitePage, upgrade: Upgrade, measure: str) -> Table:
    """Return a measure by number of images per class, in the order of H at the largest."""
    header = ["Method"]
    by_count = []
    for count in sorted(page.expected.shots):
        header.append(str(show_shots(count)))
        ranking = rank_transfer(page.ranking(upgrade, count))
        by_count.append({method["method"]: method for method in records(ranking)})
    rows = []
    for name, method in by_count[-1].items():
        cells = [method_cell(method)]
        for methods in by_count:
            value = methods[name][measure]
            cells.append(number(percent(value), value))
        rows.append(cells)
    return plain_table(header, rows)


def ablation_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """Return the settings that each config changes, and the effect on accuracy and H."""
    compared = compare_configs(page.results, page.expected, upgrade, shots, page.configs)
    rows = []
    for config in records(compared):
        diversity = config["diversity"]
        shown = [text(config["title"]), NOTHING, number(NOTHING)]
        if config["base"]:
            shown[1] = _changes(page, config["method"], config["base"])
        if diversity is not None:
            shown[2] = number(f"{diversity:.2f}")
        for name in DIFFERENCES:
            cell = number(signed(config[name]))
            if config[f"{name}_decides"]:
                cell = cell.bold()
            shown.append(cell)
        rows.append([*shown, number(interval_text(config, "h", signed))])
    header = ["Config", "Change", "Diversity", "Source", "Target", "H", "95 % of H"]
    return plain_table(header, rows, left=(0, 1))


def _changes(page: SuitePage, name: str, base: str) -> TableCell:
    """Return the settings in which a config differs from its method."""
    settings = page.results.methods[name].config
    before = page.results.methods[base].config
    parts: list[str | TableCell] = []
    for setting in sorted(settings):
        if settings[setting] == before.get(setting):
            continue
        if parts:
            parts.append("; ")
        parts.append(show_change(setting, before.get(setting), settings[setting]))
    if not parts:
        return number(NOTHING)
    return sentence(*parts)


def show_change(setting: str, before: Any, after: Any) -> TableCell:
    """Return ``lr: 0.002 → 0.01``."""
    old = text(show_setting(before))
    new = text(show_setting(after))
    return sentence(code(setting), ": ", old, " → ", new)


def retained_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """Return the gains of old and retrained modules, and the share of the gain that is kept."""
    rows = []
    for method in records(measure_retained(page.results, page.expected, upgrade, shots)):
        rows.append([method_cell(method), *_retained_cells(method)])
    return plain_table(["Method", "Old module", "Retrained", "Kept, %", "95 % of kept"], rows)


def _retained_cells(method: Mapping[str, Any]) -> list[TableCell]:
    """Return the cells of a method after its title."""
    shown = [
        signed(method["old"]),
        signed(method["retrained"]),
        share(method["kept"]),
        interval_text(method, "kept", share),
    ]
    return [number(each) for each in shown]
