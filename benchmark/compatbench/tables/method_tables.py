"""Single methods: settings, costs and datasets; named configs against their methods."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from compatbench.results.expected import Upgrade
from compatbench.results.ranks import Ranked, exact
from compatbench.results.standing import Standing, paired_interval
from compatbench.tables import markdown as md
from compatbench.tables.measure_columns import EVERYWHERE, further_measures, measure_column
from compatbench.tables.numbers import NOTHING, bounds, duration, signed, size
from compatbench.tables.ranking import format_parameters
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Cell, Column, Table, code, join, make_table, number, text


def rows_by_method(page: SuitePage) -> list[tuple[str, list[Ranked]]]:
    """Every method, by name, with its place on each upgrade at the most shots, untouched first."""
    by_method: dict[str, list[Ranked]] = {method.info.name: [] for method in page.results.all}
    for upgrade in page.expected.upgrades:
        for row in page.all_ranks(upgrade, max(page.expected.shots)):
            by_method[row.standing.info.name].append(row)
    return sorted(by_method.items())


def about_method(page: SuitePage, rows: Sequence[Ranked]) -> str:
    """Title, kind, settings, costs, and the command that measures it again, as Markdown."""
    results, figures = rows[0].standing.results, rows[0].figures
    changed = [_change(name, *both) for name, both in sorted(results.differs.items())]
    settings = [join([code(name), _setting(value)], ": ") for name, value in _flat(results.config)]
    fit, evaluation = (duration(figures[f"{name}_seconds"]) for name in ("fit", "evaluate"))
    module, memory = (size(figures[name]) for name in ("module_bytes", "peak_memory"))
    kind = (
        f"{results.info.depth}, inserts {md.escape(', '.join(results.info.inserts) or 'nothing')}"
    )
    paragraphs = [
        f"{md.linked(results.info.title, results.info.paper)}, {kind}.",
        f"Settings: {_listed(settings) or 'none'}.",
        f"Changed by this suite: {_listed(changed)}." if changed else "",
        f"Costs: fit {fit}, evaluation {evaluation}, {format_parameters(rows[0])} parameters, "
        f"module {module}, peak memory {memory}.",
        f"To reproduce: {md.code(page.run_command(results.info.name))}",
    ]
    return "\n\n".join(filter(None, paragraphs))


def further_columns(page: SuitePage) -> list[Column]:
    """The columns of these tables that no page explains in words of its own."""
    return [measure_column(name) for name in _measures(page) if name not in EVERYWHERE]


def way_table(page: SuitePage, rows: Sequence[Ranked]) -> Table:
    """Means on every upgrade, by every way of attaching the module."""
    names = _measures(page)
    columns = [
        Column("upgrade", "Upgrade", left=True),
        Column("module", "Module", left=True),
        Column("rank", "Rank"),
        *map(measure_column, names),
    ]
    return make_table(
        columns,
        (
            {
                "upgrade": page.path_title(row.standing.upgrade),
                "module": row.transfer or "untouched",
                "rank": number(row.rank or NOTHING),
                **{name: row.value(name) for name in names},
            }
            for row in rows
        ),
    )


def task_figures(page: SuitePage, row: Ranked) -> Table:
    """The figures of each dataset of the ranking."""
    names = _measures(page)
    return make_table(
        [Column("dataset", "Dataset", left=True), *map(measure_column, names)],
        (
            {"dataset": page.task_title(task), **{name: row.value(name, task) for name in names}}
            for task in page.expected.tasks
        ),
    )


def ablation_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """Every named config against the method that it configures: mean differences over datasets.

    A difference is in bold if its 95 % interval does not contain 0. The methods themselves come
    first, with the diversity of their prompts alone.
    """
    columns = [
        Column("config", "Config", left=True),
        Column("change", "Change", left=True),
        Column("diversity", "Diversity", show="{:.2f}".format),
        *(measure_column(name) for name in ("source", "target", "h")),
        Column("interval", "95 % of H"),
    ]
    standings = {row.standing.info.name: row.standing for row in page.ranks(upgrade, shots)}
    bases = map(standings.get, dict.fromkeys(page.configs.values()))
    records = [_config_record(base, None) for base in bases if base is not None]
    records += [
        _config_record(standings[name], standings.get(base))
        for name, base in page.configs.items()
        if name in standings
    ]
    return make_table(columns, records)


def _config_record(config: Standing, base: Standing | None) -> dict[str, Any]:
    """A config, and how it differs from the method that it configures, if that is known."""
    diversity = exact(config.mean("diversity"))
    record: dict[str, Any] = {"config": config.info.title, "diversity": diversity}
    if base is not None:
        before, after = base.results.config, config.results.config
        changes = [
            _change(name, before.get(name), setting)
            for name, setting in sorted(after.items())
            if setting != before.get(name)
        ]
        record["change"], interval = join(changes, "; ") if changes else None, None
        for name in ("source", "target", "h"):
            if (interval := paired_interval(config, base, name)) is not None:
                shown = number(signed(interval.value), interval.value)
                record[name] = shown.bold() if interval.sign else shown
        record["interval"] = number(bounds(interval, signed))
    return record


def _change(name: str, before: Any, after: Any) -> Cell:
    """``attention: self → prompts``."""
    return join([code(name), join([_setting(before), _setting(after)])], ": ")


def _setting(setting: Any) -> Cell:
    """A method's setting as a file has it."""
    if setting is None:
        return text("none")
    return text(setting if isinstance(setting, str) else json.dumps(setting, ensure_ascii=False))


def _listed(cells: Sequence[Cell]) -> str:
    return "; ".join(map(md.render_cell, cells))


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``recipe.lr`` and its value, for every setting, by name."""
    settings: list[tuple[str, Any]] = []
    for name, value in sorted(config.items()):
        inner = isinstance(value, Mapping) and value
        settings += _flat(value, f"{prefix}{name}.") if inner else [(f"{prefix}{name}", value)]
    return settings


def _measures(page: SuitePage) -> list[str]:
    """The measures that a method's tables show, the same for all methods of a page."""
    rows = page.all_ranks(page.expected.upgrades[0], max(page.expected.shots))
    return [*EVERYWHERE, *further_measures(rows=rows)]
