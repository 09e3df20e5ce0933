"""The plan: every cell that is asked for, and what the store holds of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import pandas as pd

from compatbench.data.cards import SuiteCard, TrainingCard, suite_cards, suite_tasks
from compatbench.data.cards.shots import Numbers
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.engine.cell import Cell
from compatbench.engine.matrix import Matrix, Names, select_matrix, select_methods
from compatbench.engine.method_settings import name_configs, resolve_settings
from compatbench.engine.missing import Missing, fetch_missing, find_missing
from compatbench.engine.order import divide, parse_shard
from compatbench.engine.pace import Pace, guess_cost
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
    missing: Missing | None = None,
    transfers: Names | None = None,
) -> list[Cell]:
    """Every cell of a suite for these methods and named configs; see ``Matrix.cells``."""
    matrix = select_matrix(suite, registry, methods, tasks, shots, seeds, transfers)
    cells, known = matrix.cells(missing), missing.test_sets.values() if missing else ()
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
    def pace(self) -> Pace:
        """How long cells take, from the finished cells of the store and of results.

        Seconds in results come from another machine. They are multiplied by the ratio of what
        this machine took to what that one took, the median over the cells that both finished.
        """
        here = {key: spent for key, (done, _, spent) in self.states.items() if done}
        results = self.store.folder.parent / "results"
        stored = read_stored_seconds(self.cells, self.suite.name, results)
        ratios = [here[key] / stored[key] for key in here.keys() & stored.keys() if stored[key]]
        ratio = median(ratios) if ratios else 1.0
        known = {key: ratio * seconds for key, seconds in stored.items()}
        known |= here
        return Pace(self.cells, known, guess_cost(self.matrix))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per method and transfer: its cells, done, failed, to do, missing, seconds.

        The seconds are those of the cells that are not done, including the missing ones, on one
        worker and without the encoding of images; NaN if no cell of the method has finished.
        """
        keys = {_place_of(cell): cell.key for cell in self.cells}
        rows = []
        for cell in self.matrix.places:
            key = keys.get(_place_of(cell))
            if self.shard is not None and key not in self.shard:
                continue
            done, failed, _ = self.states[key] if key else (False, False, 0.0)
            counts = 1, done, failed, bool(key) and not done, key is None
            if done:
                seconds = 0.0
            else:
                seconds = self.pace.seconds(cell) if self.pace.knows(cell) else math.nan
            rows.append((cell.name, cell.transfer, *map(int, counts), seconds))
        counted = ("cells", "done", "failed", "to do", "missing", "seconds")
        frame = pd.DataFrame(rows, columns=["method", "transfer", *counted])
        by_method = frame.groupby(["method", "transfer"], sort=False, as_index=False)
        # A sum with an unknown part is unknown.
        return pd.DataFrame(by_method.agg(lambda column: column.sum(skipna=False)))

    @property
    def seconds(self) -> float:
        """What the cells that are not done take on one worker, as far as that is known.

        The encoding of images is not included.
        """
        return float(self.frame["seconds"].sum())

    @property
    def unknown(self) -> list[str]:
        """The methods with cells that are not done, and whose time is not known."""
        return list(self.frame.loc[self.frame["seconds"].isna(), "method"].unique())

    def take_shard(self, shard: str | None) -> Plan:
        """The plan with the cells of one of several parts to run; or as it is, without a shard."""
        if shard is None:
            return self
        index, count = parse_shard(shard)
        # A guess, and not the pace, which changes while other jobs run.
        seconds = list(map(guess_cost(self.matrix), self.cells))
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
    skip_missing: bool = False,
    config: Mapping[str, object] | None = None,
    held_out_of: int | None = None,
    fetch: bool = True,
) -> Plan:
    """Read a suite and plan its cells; ``compatbench.run`` describes the arguments and errors.

    ``held_out_of`` are the shots of the draws that a search of settings holds images out of.
    Missing weights are fetched with ``fetch`` alone.
    """
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
    teachers = find_teachers(card, matrix.registry, [choice.name for choice in matrix.choices])
    tests = [name for task in matrix.tasks for name in (task, *matrix.tests[task])]
    missing = find_missing(card, dict.fromkeys(tests), teachers)
    if missing.backbones and fetch and (skip_missing or missing.test_sets.keys() == missing.broken):
        missing = fetch_missing(card, missing)
    every = [] if missing.absent and not skip_missing else matrix.cells(missing, held_out_of)
    broken = tuple(cell for cell in every if cell.broken)
    cells = tuple(cell for cell in every if not cell.broken)
    if not skip_missing and (missing.absent or (broken and not cells)):
        reasons = list(missing.absent.values()) or [cell.broken for cell in broken]
        which = f" without {missing}" if len(reasons) > 1 else ""
        raise CompatbenchError(
            f"suite '{card.name}' cannot run{which}: {reasons[0]}; 'compatbench store doctor "
            f"--suite {name}' shows what to do, and --skip-missing runs what is here"
        )
    return Plan(matrix, cells, RunStore(out / "runs"), missing, broken, bool(config))


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
    shard: str | None = None,
    config: Mapping[str, object] | None = None,
) -> Plan:
    """Shows what ``run`` would do: cells to do and done, what is missing, and how long it takes.

    Nothing is fetched and nothing is written. Times follow from the finished cells of each method,
    here or in ``results/``; without any, the time of a method is not known.

    Args:
        suite, methods, tasks, seeds, shots, transfers, out: as for ``run``.
        precision, shard, config: as for ``run``.

    Returns:
        A plan: ``frame`` has a row per method and transfer with its cells, how many are done,
        failed, to do and missing, and the seconds they take, NaN if that is not known; ``missing``
        says what is not here.

    Raises:
        CompatbenchError: an unknown name, a broken card or method file, or an empty selection.
    """
    asked = (suite, methods, tasks, seeds, shots, transfers, Path(out), precision)
    return make_plan(*asked, True, config, fetch=False).take_shard(shard)
