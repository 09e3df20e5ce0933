"""The plan: every cell that is asked for, and what the store holds of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import pandas as pd

from compatbench.backbone.load import is_planning, planning
from compatbench.data.cards import SuiteCard, TrainingCard, suite_cards, suite_tasks
from compatbench.data.cards.shots import Numbers
from compatbench.data.draws import ShotsFiles, read_draws
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.engine.cell import Cell
from compatbench.engine.costs import RATES, Costs, count_costs, estimate_seconds
from compatbench.engine.gpu_hours import estimate_hours, find_device_model
from compatbench.engine.matrix import Matrix, Names, select_matrix, select_methods
from compatbench.engine.method_settings import name_configs, resolve_settings
from compatbench.engine.missing import Missing, fetch_missing, find_missing
from compatbench.engine.order import divide, parse_shard
from compatbench.engine.store import RunStore
from compatbench.engine.stored_costs import read_stored_seconds
from compatbench.errors import CompatbenchError
from compatbench.method import read_settings
from compatbench.method.registry import MethodRegistry, builtin_methods


def plan_cells(
    suite: SuiteCard,
    registry: MethodRegistry,
    methods: Names,
    tasks: Names = "all",
    seeds: Numbers | None = None,
    shots: Numbers | None = None,
    files: ShotsFiles | None = None,
    missing: Missing | None = None,
    transfers: Names | None = None,
) -> list[Cell]:
    """Every cell of a suite for these methods and named configs; see ``Matrix.cells``."""
    matrix = select_matrix(suite, registry, methods, tasks, shots, seeds, transfers)
    cells, known = matrix.cells(files, missing), missing.test_sets.values() if missing else ()
    for cell in cells:
        if cell.broken and cell.broken not in known:
            raise BrokenImages(cell.broken)
    return [cell for cell in cells if not cell.broken]


def find_teachers(suite: SuiteCard, registry: MethodRegistry, names: Iterable[str]) -> list[str]:
    """The backbones that these methods and named configs of a suite learn from, each once."""
    teachers = set[str]()
    for name in names:
        cls = registry.get(suite.base_method(name))
        for task in suite_tasks(suite) if "teacher" in cls.card.needs else ():
            teachers.add(resolve_settings(cls, suite, name, task).config["teacher"])
    return sorted(teachers)


@dataclass(frozen=True, repr=False)
class Plan:
    """The cells that are asked for, what the store holds of them, and what is missing."""

    matrix: Matrix
    cells: tuple[Cell, ...]  # that can be run here
    store: RunStore
    draws: ShotsFiles = field(default_factory=dict)  # given, and not made here
    missing: Missing = field(default_factory=Missing)  # images and weights
    broken: tuple[Cell, ...] = ()  # what cannot be measured, because images are broken
    trial: bool = False  # of settings that are not the suite's; its rows are none of the suite's
    # Keys of the cells that this job of several has to run; None is all.
    shard: frozenset[str] | None = None

    def __repr__(self) -> str:
        left = f"{self.total - len(self.to_do):,} done or missing, {len(self.to_do):,} to do"
        return f"<Plan of '{self.suite.name}': {self.total:,} cells, {left}>"

    @property
    def suite(self) -> SuiteCard:
        return self.matrix.suite

    @cached_property
    def states(self) -> dict[str, tuple[bool, bool, float]]:
        """What the store held of cells when it was first asked, by key.

        Whether a cell is done, whether it failed, and the seconds that it took; a plan has no room
        for all records.
        """
        return {cell.key: self.store.read_state(cell) for cell in self.cells}

    @cached_property
    def mine(self) -> list[Cell]:
        """The cells of this job: those of its shard, or all."""
        return [cell for cell in self.cells if self.shard is None or cell.key in self.shard]

    @cached_property
    def to_do(self) -> list[Cell]:
        """The cells of this job that are not finished."""
        return [cell for cell in self.mine if not self.states[cell.key][0]]

    @property
    def total(self) -> int:
        """Cells of this job, with those whose images or weights are missing."""
        return len(self.mine) if self.shard is not None else len(self.matrix.places)

    @cached_property
    def estimate(self) -> Callable[[Cell], float]:
        """What gives the seconds of a cell, by what earlier cells took.

        Those are the finished cells of the store; of others, what results say that the very cell
        took on another machine, times what this one takes where both are known, in the median.
        """
        here = {key: spent for key, (done, _, spent) in self.states.items() if done}
        results = self.store.folder.parent / "results"
        stored = read_stored_seconds(self.cells, self.suite.name, results)
        paces = [here[key] / stored[key] for key in here.keys() & stored.keys() if stored[key]]
        pace = median(paces) if paces else 1.0
        known = {key: pace * seconds for key, seconds in stored.items()} | here
        cells = [(cell, known[cell.key]) for cell in self.cells if cell.key in known]
        return estimate_seconds(self.matrix, cells)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per method and transfer: its cells, done, failed, to do, missing, seconds.

        The seconds are those of the cells that are not done, the missing ones included, on one
        worker, without the encoding of images.
        """
        keys, rows = {_place_of(cell): cell.key for cell in self.cells}, []
        for cell in self.matrix.places:
            key = keys.get(_place_of(cell))
            if self.shard is None or key in self.shard:
                done, failed, _ = self.states[key] if key else (False, False, 0.0)
                counts = 1, done, failed, bool(key) and not done, key is None
                seconds = 0.0 if done else self.estimate(cell)
                rows.append((cell.name, cell.transfer, *map(int, counts), seconds))
        counted = ("cells", "done", "failed", "to do", "missing", "seconds")
        frame = pd.DataFrame(rows, columns=["method", "transfer", *counted])
        by_method = frame.groupby(["method", "transfer"], sort=False, as_index=False)
        return pd.DataFrame(by_method.sum())

    @cached_property
    def costs(self) -> Costs:
        """What the whole matrix costs, whether it is done or not."""
        return count_costs(self.matrix)

    def hours(self, device_model: str) -> pd.DataFrame:
        """Hours of all cells on a GPU, done or not: see ``engine.gpu_hours.estimate_hours``."""
        model = find_device_model(device_model)
        return estimate_hours(self.matrix, self.costs, model, self.suite.training.precision)

    @property
    def seconds(self) -> float:
        """What the cells that are not done take on one worker, with the encoding of images.

        Images are taken as encoded in proportion to the cells that are done.
        """
        done, cells, seconds = (float(self.frame[n].sum()) for n in ("done", "cells", "seconds"))
        encoding = self.costs.encode_flops / RATES["cpu"]
        return seconds + (1 - done / max(cells, 1)) * encoding

    def take_shard(self, shard: str | None) -> Plan:
        """The plan with the cells of one of several parts to run; or as it is, without a shard."""
        if shard is None:
            return self
        index, count = parse_shard(shard)
        seconds = list(map(estimate_seconds(self.matrix), self.cells))
        mine = divide(self.cells, seconds, count)[index - 1]
        return replace(self, shard=frozenset(cell.key for cell in mine))


def _place_of(cell: Cell) -> tuple[object, ...]:
    """What tells a cell from all others of a matrix."""
    return cell.name, cell.transfer, cell.task, cell.shots, cell.seed, cell.source


def make_plan(
    suite: str | SuiteCard = "mini",
    methods: Names = "all",
    tasks: Names = "all",
    seeds: Numbers | None = None,
    shots: Numbers | None = None,
    transfers: Names | None = None,
    out: Path = Path(),
    precision: str | None = None,
    shots_files: Sequence[Path] = (),
    skip_missing: bool = False,
    config: Mapping[str, object] | None = None,
) -> Plan:
    """Reads a suite and plans its cells; ``compatbench.run`` says what is given and raised."""
    card = suite_cards.read(suite)
    name = suite if isinstance(suite, str) else suite.name
    if precision is not None:
        values = card.training.model_dump() | {"precision": precision}
        training = read_settings(TrainingCard, values, f"suite '{name}'")
        card = card.model_copy(update={"training": training})
    if seeds is None and (first := [seed for seed in card.seeds if seed in card.run_seeds]):
        seeds = first
    if config:
        names, _ = select_methods(card, builtin_methods(), methods)
        configs = name_configs(names, config)
        card = card.model_copy(update={"methods": card.methods | configs, "publish": False})
        methods = [*names, *configs]
    matrix = select_matrix(card, builtin_methods(), methods, tasks, shots, seeds, transfers)
    draws = read_draws(shots_files)
    teachers = find_teachers(card, matrix.registry, [choice.name for choice in matrix.choices])
    tests = [name for task in matrix.tasks for name in (task, *matrix.tests[task])]
    missing = find_missing(card, dict.fromkeys(tests), teachers)
    if (
        missing.backbones
        and not is_planning()
        and (skip_missing or missing.test_sets.keys() == missing.broken)
    ):
        missing = fetch_missing(missing)
    every = [] if missing.absent and not skip_missing else matrix.cells(draws, missing)
    broken = tuple(cell for cell in every if cell.broken)
    cells = tuple(cell for cell in every if not cell.broken)
    if not skip_missing and (missing.absent or (broken and not cells)):
        reasons = list(missing.absent.values()) or [cell.broken for cell in broken]
        which = f" without {missing}" if len(reasons) > 1 else ""
        raise CompatbenchError(
            f"suite '{card.name}' cannot run{which}: {reasons[0]}; 'compatbench store doctor "
            f"--suite {name}' shows what to do, and --skip-missing runs what is here"
        )
    used = {cell.shots_file for cell in cells}
    if unused := [file for file in draws.values() if file not in used]:
        raise CompatbenchError(
            f"--shots-file '{unused[0]}': no cell to fit has its task, shots and seed; choose them "
            "with --tasks, --shots and --seeds"
        )
    return Plan(matrix, cells, RunStore(out / "runs"), draws, missing, broken, bool(config))


def plan(
    suite: str | SuiteCard = "mini",
    methods: Names = "all",
    *,
    tasks: Names = "all",
    seeds: Numbers | None = None,
    shots: Numbers | None = None,
    transfers: Names | None = None,
    out: str | Path = ".",
    precision: str | None = None,
    shots_files: Sequence[Path] = (),
    shard: str | None = None,
    config: Mapping[str, object] | None = None,
) -> Plan:
    """Shows what ``run`` would do: cells to do and done, what is missing, and what it costs.

    Nothing is fetched and nothing is written. Times are those of the same cells
    here or in ``results/``, or counted from the cards and the models' sizes.

    Args:
        suite, methods, tasks, seeds, shots, transfers, out: as for ``run``.
        precision, shots_files, shard, config: as for ``run``.

    Returns:
        A plan: ``frame`` has a row per method and transfer with its cells, how many are done,
        failed, to do and missing, and the seconds they take; ``missing`` says what is not here.

    Raises:
        CompatbenchError: an unknown name, a broken card or method file, or an empty selection.
    """
    with planning():
        asked = (suite, methods, tasks, seeds, shots, transfers, Path(out), precision, shots_files)
        return make_plan(*asked, True, config).take_shard(shard)
