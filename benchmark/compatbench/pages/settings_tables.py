"""What a suite sets of methods: named configs against their methods, and every changed setting."""

from __future__ import annotations

import json
from typing import Any

from compatbench.pages import markdown as md
from compatbench.pages.markdown import NOTHING, escape, signed, table
from compatbench.pages.suite_page import SuitePage
from compatbench.results.bootstrap import paired_interval
from compatbench.results.measures import Standing, Upgrade
from compatbench.results.ranks import exact
from compatbench.results.store import MethodResults

Table = list[str]


def ablation_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
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


def settings_table(page: SuitePage) -> Table:
    """Settings that the suite changed, with all methods that share a change on one line.

    What it changed for some tasks alone names them, and what holds for the others.
    """
    tasks: dict[tuple[str, ...], list[str]] = {}  # of a change by one method; none means all
    for method in page.results.methods.values():
        for name, (before, after) in method.differs.items():
            task, _, setting = name.rpartition(": ")
            change = (setting, _setting(before), _setting(after), method.info.title)
            tasks.setdefault((*change, "some" if task else "all"), []).append(task)
    shared: dict[tuple[str, ...], list[str]] = {}
    for (*change, title, some), names in tasks.items():
        where = ", ".join(map(page.task_title, names)) if some == "some" else "all"
        shared.setdefault((*change, where), []).append(title)
    rows = [
        [md.code(setting), before, after, *(escape(text, longest=400) for text in (where, titles))]
        for (setting, before, after, where), titles in (
            (change, ", ".join(sorted(names))) for change, names in sorted(shared.items())
        )
    ]
    header = ["Setting", "Otherwise", "This suite", "Datasets", "Methods"]
    return table(header, rows, left=range(5))


def _changed_settings(config: MethodResults, base: MethodResults) -> str:
    """``attention: self → prompts``, for every setting that differs."""
    parts = [
        f"{md.code(name)}: {_setting(base.config.get(name))} → {_setting(setting)}"
        for name, setting in sorted(config.config.items())
        if setting != base.config.get(name)
    ]
    return "; ".join(parts) or NOTHING


def _setting(setting: Any) -> str:
    """A method's setting as a file has it."""
    if setting is None:
        return "none"
    return escape(setting if isinstance(setting, str) else json.dumps(setting, ensure_ascii=False))


def _diversity(standing: Standing) -> str:
    """How much the prompts differ on the source, two decimals."""
    mean = exact(standing.mean("diversity"))
    return NOTHING if mean is None else f"{mean:.2f}"
