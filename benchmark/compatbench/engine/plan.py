"""Plan a request: list its cells with keys, read their state in the store, find what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import pandas as pd
from pydantic import ConfigDict

from compatbench.data.cards import SuiteCard, suite_tasks
from compatbench.data.cards.shots import Numbers
from compatbench.data.declared_transfers import Needs, declared_needs
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.data.live_task import choose_suite
from compatbench.engine.cell import Cell
from compatbench.engine.described_method import DescribedMethod, describe_method
from compatbench.engine.keys import key_cells, needs_modules
from compatbench.engine.matrix import Matrix, build_matrix
from compatbench.engine.method_settings import resolve_settings
from compatbench.engine.missing import Missing, fetch_missing, find_missing
from compatbench.engine.order import divide
from compatbench.engine.pace import Pace, guess_cost
from compatbench.engine.request import Methods, Names, Request, make_request
from compatbench.engine.store import RunStore
from compatbench.engine.stored_costs import read_stored_seconds
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods, find_transfer

COUNTED = ("cells", "done", "failed", "to do", "missing")


@dataclass(frozen=True, repr=False)
class Plan:
    """The cells of a request, and missing images and weights; plain data, without any class.

    ``run`` plans in another process, and receives the plan as JSON.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    request: Request
    methods: Mapping[str, DescribedMethod]  # by name in the suite
    listed: tuple[Cell, ...]  # every cell of the request, still without its key
    guesses: tuple[float, ...]  # seconds of each listed cell, from cards and settings alone
    cells: tuple[Cell, ...]  # that can be run here
    missing: Missing = field(default_factory=Missing)  # images and weights
    broken: tuple[Cell, ...] = ()  # cells that cannot be measured, because images are broken
    # Stored rows that no longer hold: method, key and hash of weights and images.
    outdated: frozenset[tuple[str, str, str]] = frozenset()
    # What the rows of results/<suite>/ took, if a run has read it already.
    costs: pd.DataFrame | None = None
    # The keys of the cells that this job of several has to run; None means all.
    shard: frozenset[str] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)  # methods that cannot be loaded
    # The needs of transfers from outside, by label.
    needs: Mapping[str, Needs] = field(default_factory=dict)

    def __repr__(self) -> str:
        left = f"{self.total - len(self.to_do):,} done or missing, {len(self.to_do):,} to do"
        return f"<Plan of '{self.suite.name}': {self.total:,} cells, {left}>"

    @property
    def suite(self) -> SuiteCard:
        return self.request.suite

    @cached_property
    def store(self) -> RunStore:
        """The store of the request's folder."""
        return RunStore(self.request.out / "runs")

    @property
    def selection(self) -> dict[str, Any]:
        """The request as arguments of ``restrict`` of results and pages.

        Without a choice of tasks, means are over those that the suite's own are over.
        """
        tasks = self.request.tasks
        all_tasks = set(tasks) == set(suite_tasks(self.suite))
        return {
            "tasks": None if all_tasks else tasks,
            "seeds": self.request.seeds,
            "shots": self.request.shots,
            "methods": set(self.methods),
            "transfers": {cell.transfer for cell in self.listed},
        }

    @property
    def trial(self) -> bool:
        """True if settings are tried that are not the suite's. Its rows are not published."""
        return self.request.trial

    @cached_property
    def states(self) -> dict[str, tuple[bool, bool, float]]:
        """The state of each cell when the store was first read, by key.

        The values are ``done``, ``failed`` and the seconds that it took. All records together
        would take too much memory.
        """
        return {cell.key: self.store.read_state(cell) for cell in self.cells}

    @cached_property
    def mine(self) -> list[Cell]:
        """The cells of this job: those of its shard, or all."""
        if self.shard is None:
            return list(self.cells)
        return [cell for cell in self.cells if cell.key in self.shard]

    @cached_property
    def to_do(self) -> list[Cell]:
        """The cells of this job that are not finished."""
        unfinished = []
        for cell in self.mine:
            done, _, _ = self.states[cell.key]
            if not done:
                unfinished.append(cell)
        return unfinished

    @property
    def total(self) -> int:
        """The number of cells of this job; without a shard, cells that are missing count too."""
        if self.shard is None:
            return len(self.listed)
        return len(self.mine)

    @cached_property
    def pace(self) -> Pace:
        """The speed of the finished cells of the store and of results, to estimate the others.

        Seconds in results come from another machine. They are multiplied by the ratio of the two
        machines: the median over the cells that both have finished.
        """
        here = {}
        for key, (done, _, seconds) in self.states.items():
            if done:
                here[key] = seconds
        results = self.store.folder.parent / "results"
        stored = read_stored_seconds(self.cells, self.suite.name, results, self.costs)
        ratios = [here[key] / stored[key] for key in here.keys() & stored.keys() if stored[key]]
        ratio = median(ratios) if ratios else 1.0
        known = {key: ratio * seconds for key, seconds in stored.items()}
        known |= here
        guesses = dict(zip(map(_identify, self.listed), self.guesses, strict=True))
        return Pace(self.cells, known, lambda cell: guesses[_identify(cell)])

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per method and transfer: its cells, done, failed, to do, missing, seconds.

        The seconds are those of the cells that are not done, including the missing ones, on one
        worker and without the encoding of images; NaN if no cell of the method has finished.
        """
        keys = {_identify(cell): cell.key for cell in self.cells}
        rows = []
        for cell in self.listed:
            key = keys.get(_identify(cell))
            if self.shard is not None and key not in self.shard:
                continue
            done, failed, _ = (False, False, 0.0) if key is None else self.states[key]
            if done:
                seconds = 0.0
            elif self.pace.knows(cell):
                seconds = self.pace.seconds(cell)
            else:
                seconds = math.nan
            to_do = key is not None and not done
            counts = (1, int(done), int(failed), int(to_do), int(key is None))
            rows.append((cell.name, cell.transfer, *counts, seconds))
        frame = pd.DataFrame(rows, columns=["method", "transfer", *COUNTED, "seconds"])
        by_method = frame.groupby(["method", "transfer"], sort=False, as_index=False)
        # A sum with an unknown part is unknown.
        return pd.DataFrame(by_method.agg(lambda column: column.sum(skipna=False)))

    @property
    def seconds(self) -> float:
        """The known seconds of the cells that are not done, on one worker.

        The encoding of images is not included.
        """
        return float(self.frame["seconds"].sum())

    @property
    def unknown(self) -> list[str]:
        """The methods with cells that are not done, and whose time is not known."""
        return list(self.frame.loc[self.frame["seconds"].isna(), "method"].unique())


def _identify(cell: Cell) -> tuple[object, ...]:
    """Return the fields that distinguish a cell from all others of a matrix, even without a key."""
    return cell.name, cell.transfer, cell.task, cell.shots, cell.seed, cell.source


def make_plan(request: Request, fetch: bool = True) -> Plan:
    """Plan the cells of a request: give them keys, and look for images, weights and results.

    Args:
        fetch: download missing weights.

    Raises:
        CompatbenchError: wrong settings, or images or weights are missing and the request does
            not skip them.
    """
    matrix = build_matrix(request)
    missing = _find_missing(matrix, fetch)
    keyed = []
    if request.skip_missing or not missing.absent:
        keyed = key_cells(matrix, missing)
    broken = tuple(cell for cell in keyed if cell.broken)
    cells = tuple(cell for cell in keyed if not cell.broken)
    if not request.skip_missing:
        _require_images_and_weights(request, missing, cells, broken)
    # A guess, and not the pace, which changes while other jobs run.
    guess = guess_cost(matrix)
    shard = None
    if request.shard is not None:
        index, count = request.shard
        parts = divide(cells, [guess(cell) for cell in cells], count)
        shard = frozenset(cell.key for cell in parts[index - 1])
    methods = {}
    for choice in matrix.choices:
        if choice.name not in methods:
            methods[choice.name] = describe_method(request.suite, choice.method, choice.name)
    return Plan(
        request=request,
        methods=methods,
        listed=matrix.cells,
        guesses=tuple(guess(cell) for cell in matrix.cells),
        cells=cells,
        missing=missing,
        broken=broken,
        shard=shard,
        left_out=builtin_methods().broken,
        needs=_list_needs(request),
    )


def _list_needs(request: Request) -> dict[str, Needs]:
    """Return the needs of the request's transfers that are not this repository's."""
    needs = {}
    for label in request.transfers:
        if declared_needs(label) is None:
            transfer = find_transfer(label)
            shots = getattr(transfer.config, "shots", 0)
            needs[label] = Needs(frozenset(transfer.card.access), shots)
    return needs


def _find_missing(matrix: Matrix, fetch: bool) -> Missing:
    """Return the images and weights that are missing, after fetching weights where that helps."""
    request = matrix.request
    test_sets = []
    for task in request.tasks:
        test_sets += [task, *request.test_sets[task]]
    if any(needs_modules(choice.transfer) for choice in matrix.choices):
        test_sets += suite_tasks(request.suite)
    names = [choice.name for choice in matrix.choices]
    teachers = find_teachers(request.suite, names)
    missing = find_missing(request.suite, test_sets, teachers)
    # Without its images the request cannot run, however many weights are fetched.
    images_are_here = missing.test_sets.keys() == missing.broken
    if fetch and missing.backbones and (request.skip_missing or images_are_here):
        return fetch_missing(request.suite, missing)
    return missing


def find_teachers(suite: SuiteCard, names: Iterable[str]) -> list[str]:
    """Return the backbones that these methods and named configs of a suite learn from."""
    teachers = set()
    for name in names:
        cls = builtin_methods().get(suite.base_method(name))
        if "teacher" not in cls.card.needs:
            continue
        for task in suite_tasks(suite):
            teachers.add(resolve_settings(cls, suite, name, task).config["teacher"])
    return sorted(teachers)


def _require_images_and_weights(
    request: Request, missing: Missing, cells: tuple[Cell, ...], broken: tuple[Cell, ...]
) -> None:
    """Raise CompatbenchError if something is missing, or if all cells are broken."""
    if missing.absent:
        reasons = list(missing.absent.values())
    elif broken and not cells:
        reasons = [cell.broken for cell in broken]
    else:
        return
    why = reasons[0]
    if len(reasons) > 1:
        why = f"{missing} are missing here" if missing.absent else reasons[0]
    raise CompatbenchError(
        f"suite '{request.suite.name}' cannot run: {why}; 'compatbench store doctor --suite "
        f"{request.suite_given}' shows what to do, and --skip-missing (in Python: "
        "skip_missing=True) runs what is here"
    )


def plan_cells(request: Request, missing: Missing | None = None) -> list[Cell]:
    """Return every cell of a request with its key, without those that are missing.

    Raises:
        BrokenImages: images that are not in ``missing`` are broken.
    """
    known = () if missing is None else tuple(missing.test_sets.values())
    cells = []
    for cell in key_cells(build_matrix(request), missing):
        if not cell.broken:
            cells.append(cell)
        # The images of another task have the same reason, after the task's name.
        elif not cell.broken.endswith(known):
            raise BrokenImages(cell.broken)
    return cells


def plan(
    suite: str | SuiteCard | None = None,
    methods: Methods = "all",
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
    """Show what ``run`` would do: cells to do and done, what is missing, and how long it takes.

    Nothing is fetched, and nothing is written but the source of a class; damaged records are set
    aside. Times follow from the finished cells of each method, here or in ``results/``; without
    any, the time of a method is not known.

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
    request = make_request(
        choose_suite(suite, tasks),
        methods,
        tasks=tasks,
        seeds=seeds,
        shots=shots,
        transfers=transfers,
        out=out,
        precision=precision,
        skip_missing=True,
        shard=shard,
        config=config,
    )
    return make_plan(request, fetch=False)
