"""From finished cells to ``results/`` and ``leaderboard.md``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from compatbench.data.cards import SuiteCard
from compatbench.data.draws import ShotsFiles
from compatbench.engine.aligned_cells import is_aligned, plain_name
from compatbench.engine.cell import Cell
from compatbench.engine.collect import costs_of, rows_of
from compatbench.engine.configs import resolve_config
from compatbench.engine.keys import data_key
from compatbench.engine.missing import Missing, find_missing
from compatbench.engine.plan import PlannedCell, plan_cells
from compatbench.method import Method
from compatbench.method.registry import MethodRegistry
from compatbench.pages.leaderboard import write_pages
from compatbench.pages.suite_page import FIGURES, RESULTS
from compatbench.results.store import (
    MethodInfo,
    MethodResults,
    join_provenance,
    merge_results,
    read_results,
    write_results,
)


def publish(
    suite: SuiteCard,
    registry: MethodRegistry,
    planned: Iterable[PlannedCell],
    out: Path,
    files: ShotsFiles | None = None,
) -> None:
    """Writes the results of the planned cells, and the leaderboard; redraws pictures beside them.

    Rows of other cells of the suite stay as long as their cells, weights and images
    are still the same, so that parts of a suite, and the work of several machines,
    add up. Rows of weights or images that are not on this machine stay, too.

    Args:
        files: draws that are given and not made here; their rows take the place of others of
            the same task, shots and seed.

    Raises:
        CompatbenchError: a broken results file, or a folder that cannot be written.
    """
    missing = find_missing(suite)
    folder = out / RESULTS / suite.name
    by_name: dict[str, list[PlannedCell]] = {}
    for item in planned:
        by_name.setdefault(item.cell.name, []).append(item)
    before = read_results(folder).methods
    for name, items in by_name.items():
        cells = plan_cells(suite, registry, [name], files=files, missing=missing)
        method = registry.get(suite.base_method(plain_name(name)))
        results = _method_results(suite, method, name, items)
        old = _without_stale_rows(before.get(name), cells, missing)
        keys = {cell.key for cell in cells}
        if old:
            keys |= {row.key for row in old.rows}
        write_results(folder, merge_results(old, results, keys))
    if suite.publish:
        if (out / RESULTS / FIGURES).is_dir():
            from compatbench.pages.html_report import write_report

            write_report(out)
        write_pages(out, suite)


def _without_stale_rows(
    results: MethodResults | None, cells: list[Cell], missing: Missing
) -> MethodResults | None:
    """Leaves out rows of weights or images that have changed or left the suite."""
    if results is None:
        return None
    current = {
        (cell.key, data_key(backbone, test_set))
        for cell in cells
        for backbone in cell.backbones
        for test_set in cell.test_sets
    }
    rows = tuple(
        row
        for row in results.rows
        if (row.key, row.data) in current
        # What is not here cannot be compared; another machine has measured it.
        or {row.backbone, row.source} & set(missing.backbones)
        or {row.task, row.test_set} & set(missing.test_sets)
    )
    return replace(results, rows=rows)


def describe_method(suite: SuiteCard, method: type[Method], name: str) -> MethodResults:
    """What ``<method>.json`` says of a method in a suite: its info, config and differences.

    Args:
        name: the method's, or that of a config of it, aligned or not.

    Raises:
        CompatbenchError: the suite sets something the method does not know.
    """
    config = resolve_config(method, suite, plain_name(name))
    differs = _differences(method.Config().model_dump(mode="json"), config)
    if suite.training.precision != "fp32":
        differs["precision"] = ("fp32", suite.training.precision)
    return MethodResults(_info(method, name), config, differs, provenance={}, rows=())


def _method_results(
    suite: SuiteCard, method: type[Method], name: str, items: list[PlannedCell]
) -> MethodResults:
    measured = [(item.cell, item.record) for item in items if item.record is not None]
    return replace(
        describe_method(suite, method, name),
        provenance=join_provenance([record.provenance for _, record in measured]),
        rows=tuple(row for cell, record in measured for row in rows_of(cell, record)),
        costs=tuple(cost for _, record in measured for cost in costs_of(record)),
    )


def _info(method: type[Method], name: str) -> MethodInfo:
    card = method.card
    plain = plain_name(name)
    title = card.title if plain == card.name else plain
    if is_aligned(name):
        title += " + aligned"
    return MethodInfo(name, title, card.paper, card.depth, card.places, card.learns)


def _differences(
    recipe: dict[str, Any], suite: dict[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Settings that a suite changed, by dotted name; the cap on steps is told elsewhere."""
    changed: dict[str, tuple[Any, Any]] = {}
    for name, value in suite.items():
        default = recipe.get(name)
        if isinstance(value, dict) and isinstance(default, dict) and name == "recipe":
            changed |= _differences(default, value, f"{name}.")
        elif value != default and name != "max_steps":
            changed[f"{prefix}{name}"] = (default, value)
    return changed
