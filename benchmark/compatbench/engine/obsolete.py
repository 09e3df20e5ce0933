"""Which stored cells no plan wants any more: their method, settings, data or weights changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from compatbench.data.cards import SuiteCard, suite_tasks
from compatbench.data.draws import ShotsFiles
from compatbench.engine.cell import CellRecord
from compatbench.engine.missing import find_missing
from compatbench.engine.plan import plan_cells
from compatbench.method.registry import MethodRegistry

PRECISIONS = ("fp32", "bf16")


def find_unwanted(
    records: Mapping[str, CellRecord],
    suites: Iterable[SuiteCard],
    registry: MethodRegistry,
    files: ShotsFiles | None = None,
) -> set[str]:
    """Keys of stored cells that would be run again, under another key, if they were asked for.

    A cell counts as wanted if one of the suites gives its key for some of the shots, seeds and
    precisions that are stored, whether the suite itself has them or not. What cannot be told
    here is wanted, too: cells of methods that are not here, of tasks in no suite, and of images
    or weights that are not on this machine.

    Args:
        files: draws that are given and not made here.

    Raises:
        CompatbenchError: a broken card or method.
    """
    wanted: set[str] = set()
    known: set[tuple[str, str, str]] = set()
    for suite in suites:
        missing = find_missing(suite)
        tasks = [task for task in suite_tasks(suite) if task not in missing.test_sets]
        methods = _methods(suite, registry, records.values())
        for name in methods:
            method = suite.base_method(name)
            mine = [r for r in records.values() if r.method == method and r.task in tasks]
            if not mine:
                continue
            shots = sorted({*suite.shots, *(record.shots for record in mine)})
            seeds = sorted({*suite.seeds, *(record.seed for record in mine)})
            for variant in _precisions(suite):
                for given in ({}, files or {}):
                    cells = plan_cells(
                        variant, registry, [name], tasks, seeds, shots, given, missing
                    )
                    wanted |= {cell.key for cell in cells}
                    known |= {(cell.method, cell.task, cell.source) for cell in cells}
    return {
        key
        for key, record in records.items()
        if key not in wanted and (record.method, record.task, record.source) in known
    }


def _methods(
    suite: SuiteCard, registry: MethodRegistry, records: Iterable[CellRecord]
) -> Sequence[str]:
    """The methods that are stored, and the suite's configs of them."""
    stored = {record.method for record in records} & set(registry.classes)
    configs = [name for name in suite.methods if suite.base_method(name) in stored]
    return sorted({*stored, *configs})


def _precisions(suite: SuiteCard) -> list[SuiteCard]:
    trainings = [suite.training.model_copy(update={"precision": name}) for name in PRECISIONS]
    return [suite.model_copy(update={"training": training}) for training in trainings]
