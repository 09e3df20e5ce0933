"""Tables of single methods: settings, costs and datasets; named configs against their methods."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from compatbench.results.bootstrap import paired_interval
from compatbench.results.expected import Upgrade
from compatbench.results.ranks import Ranked, exact
from compatbench.results.standing import MeasureName, Standing
from compatbench.results.store import MethodResults
from compatbench.tables import markdown as md
from compatbench.tables.markdown import NOTHING, escape, percent, signed, table
from compatbench.tables.ranking import format_parameters
from compatbench.tables.suite_page import SuitePage

FIGURES: dict[str, MeasureName] = {
    "Source": "source",
    "Target": "target",
    "H": "h",
    "Gain": "gain",
    "NFR": "negative_flips",
    "PFR": "positive_flips",
    "ECE": "target_ece",
}


def rows_by_method(page: SuitePage) -> list[tuple[str, list[Ranked]]]:
    """Every method, by name, with its place on each upgrade at the most shots, untouched first."""
    found: dict[str, list[Ranked]] = {one.info.name: [] for one in page.results.all}
    for upgrade in page.expected.upgrades:
        for row in page.all_ranks(upgrade, max(page.expected.shots)):
            found[row.standing.info.name].append(row)
    return sorted(found.items())


def about_method(page: SuitePage, rows: Sequence[Ranked]) -> list[str]:
    """Title, kind, settings, costs, and the command that measures it again."""
    one, figures = rows[0].standing, rows[0].figures
    changed = [_change(name, *both) for name, both in sorted(one.results.differs.items())]
    times = [md.duration(figures[f"{name}_seconds"]) for name in ("fit", "evaluate")]
    module, memory = (md.size(figures[name]) for name in ("module_bytes", "peak_memory"))
    settings = [
        f"{md.code(name)}: {show_setting(value)}" for name, value in _flat(one.results.config)
    ]
    kind = f"{one.info.depth}, inserts {escape(', '.join(one.info.inserts) or 'nothing')}"
    lines = [
        f"{md.linked(one.info.title, one.info.paper)}, {kind}.",
        f"Settings: {'; '.join(settings) or 'none'}.",
        f"Changed by this suite: {'; '.join(changed)}." if changed else "",
        f"Costs: fit {times[0]}, evaluation {times[1]}, {format_parameters(rows[0])} parameters, "
        f"module {module}, peak memory {memory}.",
        f"To reproduce: {md.code(page.run_command(one.info.name))}",
    ]
    return "\n\n".join(filter(None, lines)).split("\n")


def way_table(page: SuitePage, rows: Sequence[Ranked]) -> list[str]:
    """Means on every upgrade, by every way of attaching the module."""
    lines = [
        [
            escape(page.path_title(row.standing.upgrade)),
            escape(row.transfer or "untouched"),
            row.rank or NOTHING,
            *_figures(row),
        ]
        for row in rows
    ]
    return table(["Upgrade", "Module", "Rank", *FIGURES], lines, left=(0, 1))


def task_figures(page: SuitePage, row: Ranked) -> list[str]:
    """The figures of each dataset of the ranking."""
    lines = [[escape(page.task_title(task)), *_figures(row, task)] for task in page.expected.tasks]
    return table(["Dataset", *FIGURES], lines)


def ablation_table(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    """Every named config against the method that it configures: mean differences over datasets.

    A difference is in bold if its 95 % interval does not contain 0. The methods themselves come
    first, with the diversity of their prompts alone.
    """
    standings = {
        one.info.name: one for one in (each.standing for each in page.ranks(upgrade, shots))
    }
    rows = [
        [escape(base.info.title), NOTHING, _diversity(base), *[NOTHING] * 4]
        for base in map(standings.get, dict.fromkeys(page.configs.values()))
        if base is not None
    ]
    for name, base_name in page.configs.items():
        if (config := standings.get(name)) is None:
            continue
        cells = [NOTHING, _diversity(config), *[NOTHING] * 4]
        if base := standings.get(base_name):
            cells[0], interval = _changed_settings(config.results, base.results), None
            for column, measure in enumerate(("source", "target", "h"), start=2):
                interval = paired_interval(config, base, measure)
                mark = "**" if interval is not None and interval.sign else ""
                cells[column] = f"{mark}{signed(interval and interval.value)}{mark}"
            cells[-1] = md.bounds(interval, signed)
        rows.append([escape(config.info.title), *cells])
    header = ["Config", "Change", "Diversity", "Source", "Target", "H", "95 % of H"]
    return table(header, rows, left=(0, 1))


def _changed_settings(config: MethodResults, base: MethodResults) -> str:
    """``attention: self → prompts``, for every setting that differs."""
    parts = [
        _change(name, base.config.get(name), setting)
        for name, setting in sorted(config.config.items())
        if setting != base.config.get(name)
    ]
    return "; ".join(parts) or NOTHING


def _change(name: str, before: Any, after: Any) -> str:
    return f"{md.code(name)}: {show_setting(before)} → {show_setting(after)}"


def _diversity(standing: Standing) -> str:
    """How much the prompts differ on the source, two decimals."""
    mean = exact(standing.mean("diversity"))
    return NOTHING if mean is None else f"{mean:.2f}"


def _figures(row: Ranked, task: str | None = None) -> list[str]:
    return [
        (signed if name == "gain" else percent)(row.value(name, task)) for name in FIGURES.values()
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``recipe.lr`` and its value, for every setting, by name."""
    found: list[tuple[str, Any]] = []
    for name, value in sorted(config.items()):
        inner = isinstance(value, Mapping) and value
        found += _flat(value, f"{prefix}{name}.") if inner else [(f"{prefix}{name}", value)]
    return found


def show_setting(setting: Any) -> str:
    """A method's setting as a file has it."""
    if setting is None:
        return "none"
    return escape(setting if isinstance(setting, str) else json.dumps(setting, ensure_ascii=False))
