"""The plan: every cell that is asked for, and what the store holds of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compatbench.backbone.load import is_planning
from compatbench.data.cards import SuiteCard, TrainingCard, suite_cards, suite_tasks
from compatbench.data.draws import ShotsFiles, read_draws
from compatbench.engine.cell import Cell
from compatbench.engine.costs import TimeEstimate, count_costs
from compatbench.engine.matrix import (
    BrokenCell,
    Matrix,
    Names,
    select_matrix,
)
from compatbench.engine.method_settings import read_settings, resolve_settings
from compatbench.engine.missing import Missing, fetch_missing, find_missing
from compatbench.engine.model_size import measure_rate
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.method.registry import MethodRegistry, builtin_methods

if TYPE_CHECKING:
    import pandas as pd


class CellState(NamedTuple):
    """A cell, and in few words what the store holds of it; a plan has no room for all records."""

    cell: Cell
    done: bool = False
    failed: bool = False
    seconds: float = 0.0  # that its fit and its evaluations took


def plan_cells(
    suite: SuiteCard,
    registry: MethodRegistry,
    methods: Names,
    tasks: Names = "all",
    seeds: Sequence[int] | None = None,
    shots: Sequence[int] | None = None,
    files: ShotsFiles | None = None,
    missing: Missing | None = None,
    transfers: Sequence[str] | None = None,
) -> list[Cell]:
    """Every cell of a suite for these methods and named configs; see ``Matrix.cells``."""
    matrix = select_matrix(suite, registry, methods, tasks, shots, seeds, transfers)
    return matrix.cells(files, missing)


def find_teachers(suite: SuiteCard, registry: MethodRegistry, names: Iterable[str]) -> list[str]:
    """The backbones that these methods and named configs of a suite learn from, each once."""
    found = set[str]()
    for name in names:
        cls = registry.get(suite.base_method(name))
        for task in suite_tasks(suite) if "teacher" in cls.card.needs else ():
            found.add(resolve_settings(cls, suite, name, task).config["teacher"])
    return sorted(found)


def plan(cells: Iterable[Cell], store: RunStore) -> list[CellState]:
    """The cells with what the store holds of each."""
    states = []
    for cell in cells:
        record = store.read(cell.key)
        if record is None:
            states.append(CellState(cell))
            continue
        seconds = record.fit_seconds + sum(outcome.seconds for outcome in record.records)
        states.append(CellState(cell, store.is_done(cell, record), bool(record.errors), seconds))
    return states


@dataclass(frozen=True, repr=False)
class Plan:
    """The cells that are asked for, what the store holds of them, and what is missing."""

    matrix: Matrix
    planned: tuple[CellState, ...]
    store: RunStore
    draws: ShotsFiles  # few-shot draws that are given and not made here
    missing: Missing  # images and weights that are not on this machine
    # Keys of the cells that this job of several has to run; None is all.
    shard: frozenset[str] | None = None
    broken: tuple[BrokenCell, ...] = ()  # what cannot be measured, because images are broken

    def __repr__(self) -> str:
        left = f"{self.total - len(self.to_do):,} done or missing, {len(self.to_do):,} to do"
        return f"<Plan of '{self.suite.name}': {self.total:,} cells, {left}>"

    @property
    def suite(self) -> SuiteCard:
        return self.matrix.suite

    @cached_property
    def mine(self) -> list[CellState]:
        """The cells of this job: those of its shard, or all."""
        return [i for i in self.planned if self.shard is None or i.cell.key in self.shard]

    @cached_property
    def to_do(self) -> list[CellState]:
        """The cells of this job that are not finished."""
        return [item for item in self.mine if not item.done]

    @property
    def total(self) -> int:
        """Cells of this job, with those whose images or weights are missing."""
        return len(self.mine) if self.shard is not None else len(self.matrix.places)

    @property
    def finished(self) -> list[tuple[Cell, float]]:
        """The cells that are done, and the seconds that they took, for estimates."""
        return [(one.cell, one.seconds) for one in self.planned if one.done]

    @cached_property
    def estimate(self) -> TimeEstimate:
        """What cells take on this machine, by its rate now and by what earlier cells took."""
        return TimeEstimate(self.matrix, measure_rate("cpu"), self.finished)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per method and transfer: its cells, done, failed, to do, missing, seconds."""
        import pandas as pd

        return pd.DataFrame(self.columns)

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """The columns of ``frame``, without loading pandas.

        The seconds are those of the cells that are not done, the missing ones included, on one
        worker, without the encoding of images.
        """
        sums = defaultdict[tuple[str, str], Any](lambda: [0] * 5 + [0.0])
        planned = {_place_of(item.cell): item for item in self.planned}
        for place in self.matrix.places:
            choice = place.choice
            where = (choice.name, choice.transfer, *place[1:4], place.backbones[0])
            item = planned.get(where)
            if self.shard is not None and (item is None or item.cell.key not in self.shard):
                continue
            done, failed = (False, False) if item is None else (item.done, item.failed)
            to_do = item is not None and not done
            seconds = 0.0 if done else self.estimate.place(place)
            row = sums[choice.name, choice.transfer]
            for i, value in enumerate((1, done, failed, to_do, item is None, seconds)):
                row[i] += value
        names = ["method", "transfer", "cells", "done", "failed", "to do", "missing", "seconds"]
        rows = [(*of, *row) for of, row in sums.items()]
        return {name: [row[i] for row in rows] for i, name in enumerate(names)}

    @property
    def seconds(self) -> float:
        """What the cells that are not done take on one worker, with the encoding of images.

        Images are taken as encoded in proportion to the cells that are done.
        """
        left = 1 - sum(self.columns["done"]) / max(sum(self.columns["cells"]), 1)
        encoding = count_costs(self.matrix).encode_flops / measure_rate("cpu")
        return sum(self.columns["seconds"]) + left * encoding


def _place_of(cell: Cell) -> tuple[object, ...]:
    """What tells a cell from all others of a matrix."""
    return cell.name, cell.transfer, cell.task, cell.shots, cell.seed, cell.source


def make_plan(
    suite: str | SuiteCard = "mini",
    methods: Names = "all",
    tasks: Names = "all",
    seeds: Sequence[int] | None = None,
    shots: Sequence[int] | None = None,
    transfers: Sequence[str] | None = None,
    out: Path = Path(),
    precision: str | None = None,
    shots_files: Sequence[Path] = (),
    skip_missing: bool = False,
) -> Plan:
    """Reads a suite and plans its cells; ``compatbench.run`` says what is given and raised."""
    card = suite_cards.read(suite) if isinstance(suite, str) else suite
    name = suite if isinstance(suite, str) else suite.name
    if precision is not None:
        values = card.training.model_dump() | {"precision": precision}
        training = read_settings(TrainingCard, values, f"suite '{name}'")
        card = card.model_copy(update={"training": training})
    if seeds is None and (first := [seed for seed in card.seeds if seed in card.run_seeds]):
        seeds = first
    matrix = select_matrix(card, builtin_methods(), methods, tasks, shots, seeds, transfers)
    draws = read_draws(shots_files)
    teachers = find_teachers(card, matrix.registry, [one.name for one in matrix.choices])
    tests = [name for task in matrix.tasks for name in (task, *matrix.tests(task))]
    missing = find_missing(card, dict.fromkeys(tests), teachers)
    if (
        missing.backbones
        and not is_planning()
        and (skip_missing or missing.test_sets.keys() == missing.broken)
    ):
        missing = fetch_missing(missing)
    broken: list[BrokenCell] = []
    cells = [] if missing.absent and not skip_missing else matrix.cells(draws, missing, broken)
    if not skip_missing and (missing.absent or (broken and not cells)):
        reasons = list(missing.absent.values()) or [one.why for one in broken]
        which = f" without {missing}" if len(reasons) > 1 else ""
        raise CompatbenchError(
            f"suite '{card.name}' cannot run{which}: {reasons[0]}; 'compatbench doctor --suite "
            f"{name}' shows what to do, and --skip-missing runs what is here"
        )
    used = {cell.shots_file for cell in cells}
    if unused := [file for file in draws.values() if file not in used]:
        raise CompatbenchError(
            f"--shots-file '{unused[0]}': no cell to fit has its task, shots and seed; choose them "
            "with --tasks, --shots and --seeds"
        )
    store = RunStore(out / "runs")
    states = tuple(plan(cells, store))
    return Plan(matrix, states, store, draws, missing, broken=tuple(broken))
