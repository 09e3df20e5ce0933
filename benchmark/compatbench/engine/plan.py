"""The plan: every cell of a suite for some methods, and what is already done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from compatbench.data.cards import SuiteCard, select_names
from compatbench.data.cards.suites import suite_tasks, suite_variants
from compatbench.data.draws import ShotsFiles
from compatbench.engine.aligned_cells import align_cell, is_aligned, plain_name
from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.configs import resolve_config
from compatbench.engine.keys import cell_key, data_key
from compatbench.engine.missing import Missing, fit_backbones
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import sha256_json
from compatbench.method.registry import MethodRegistry, method_identity
from compatbench.results.aligned import can_be_retrained


@dataclass(frozen=True)
class PlannedCell:
    """A cell and what the store holds of it."""

    cell: Cell
    record: CellRecord | None

    @property
    def done(self) -> bool:
        """Whether every backbone and test set has its record."""
        return (
            self.record is not None
            and self.record.status == "ok"
            and not missing_records(self.cell, self.record)
        )

    @property
    def failed(self) -> bool:
        """Whether the last attempt ended in an error; it is tried again."""
        return self.record is not None and bool(self.record.errors)


def missing_records(cell: Cell, record: CellRecord) -> list[tuple[str, str]]:
    """The (backbone, test set) pairs that still have to be measured."""
    return [
        (backbone, test_set)
        for backbone in cell.backbones
        for test_set in cell.test_sets
        if record.find(backbone, test_set, data_key(backbone, test_set)) is None
    ]


def plan_cells(
    suite: SuiteCard,
    registry: MethodRegistry,
    methods: Iterable[str],
    tasks: str | Sequence[str] = "all",
    seeds: Sequence[int] | None = None,
    shots: Sequence[int] | None = None,
    files: ShotsFiles | None = None,
    missing: Missing | None = None,
) -> list[Cell]:
    """Every cell of a suite for these methods and named configs.

    Cells of one task and seed stand together, so that features are shared while
    they are in memory.

    Args:
        files: draws that are given and not made here.
        missing: what to leave out: cells without their task or source, and of the others
            the targets and variants.

    Raises:
        CompatbenchError: an unknown task or method, a broken card, a setting that a method
            does not know, or two configs of a method that are the same.
    """
    missing = missing or Missing()
    prepared = [_prepare(registry, suite, name) for name in methods]
    _check_distinct(suite, prepared)
    training = suite.training.model_dump(mode="json", exclude={"max_steps"})
    cells = []
    for place in _places(suite, prepared, tasks, seeds, shots):
        method, task, shots_, seed, backbones = place
        if task in missing.test_sets or backbones[0] in missing.backbones:
            continue
        file = (files or {}).get((task, shots_, seed)) if method.learns else None
        key = cell_key(
            method.identity,
            method.config,
            backbones[0],
            task,
            shots_,
            seed,
            training,
            file,
        )
        test_sets = (task, *suite_variants(suite, task))
        cells.append(
            Cell(
                key=key,
                method=method.name,
                config=method.config,
                task=task,
                shots=shots_,
                seed=seed,
                backbones=tuple(name for name in backbones if name not in missing.backbones),
                test_sets=tuple(name for name in test_sets if name not in missing.test_sets),
                training=suite.training,
                plugin=method.plugin,
                shots_file=file,
                config_name=method.config_name,
            )
        )
    return [align_cell(cell) if is_aligned(cell.name) else cell for cell in cells]


def count_cells(
    suite: SuiteCard,
    registry: MethodRegistry,
    methods: Iterable[str],
    tasks: str | Sequence[str] = "all",
    seeds: Sequence[int] | None = None,
    shots: Sequence[int] | None = None,
) -> Counter[str]:
    """How many cells a suite has for each method, whether its data is here or not.

    Raises:
        CompatbenchError: as ``plan_cells``.
    """
    prepared = [_prepare(registry, suite, name) for name in methods]
    places = _places(suite, prepared, tasks, seeds, shots)
    return Counter(method.display for method, *_ in places)


def count_retrained(
    suite: SuiteCard,
    registry: MethodRegistry,
    methods: Iterable[str],
    tasks: str | Sequence[str] = "all",
    seeds: Sequence[int] | None = None,
    shots: Sequence[int] | None = None,
) -> int:
    """How many of the cells that ``count_cells`` counts are fits on a target, for comparison.

    Raises:
        CompatbenchError: as ``plan_cells``.
    """
    sources = {upgrade[0] for upgrade in suite.upgrades}
    prepared = [_prepare(registry, suite, name) for name in methods]
    places = _places(suite, prepared, tasks, seeds, shots)
    return sum(backbones[0] not in sources for *_, backbones in places)


@dataclass(frozen=True)
class _Prepared:
    """What all cells of a method have in common."""

    name: str
    config_name: str
    learns: bool
    config: dict[str, Any]
    identity: str
    plugin: str | None

    @property
    def display(self) -> str:
        """What the suite and the leaderboard call it."""
        return self.config_name or self.name


def _prepare(registry: MethodRegistry, suite: SuiteCard, name: str) -> _Prepared:
    plain = plain_name(name)
    cls = registry.get(suite.base_method(plain))
    return _Prepared(
        cls.card.name,
        name if name != cls.card.name else "",
        cls.card.learns,
        resolve_config(cls, suite, plain),
        method_identity(cls),
        MethodRegistry.plugin_file(cls),
    )


def _check_distinct(suite: SuiteCard, prepared: Sequence[_Prepared]) -> None:
    seen: dict[str, str] = {}
    for method in prepared:
        name = method.display
        first = seen.setdefault(sha256_json([method.name, method.config, is_aligned(name)]), name)
        if first != name:
            raise CompatbenchError(
                f"suite '{suite.name}': '{first}' and '{name}' are one method with the same "
                "settings; drop one"
            )


_Place = tuple[_Prepared, str, int, int, tuple[str, ...]]


def _places(
    suite: SuiteCard,
    prepared: Sequence[_Prepared],
    tasks: str | Sequence[str],
    seeds: Sequence[int] | None,
    shots: Sequence[int] | None,
) -> Iterator[_Place]:
    """(method, task, shots, seed, backbones) of every cell, in the order of the plan."""
    draws = list(product(shots or suite.shots, seeds or suite.seeds))
    for task in select_names(tasks, suite_tasks(suite), "task in this suite"):
        for backbones in _paths(suite).values():
            for draw, method in product(draws, prepared):
                if len(backbones) == 1 and not can_be_retrained(method.display, method.learns):
                    continue
                if method.learns:
                    yield method, task, *draw, backbones
                elif draw == draws[0]:
                    # It sees no image: one cell stands for every draw.
                    yield method, task, suite.shots[0], suite.seeds[0], backbones


def _paths(suite: SuiteCard) -> dict[str, tuple[str, ...]]:
    """Per source, itself and every backbone that some upgrade from it reaches.

    With ``retrained``, every target is a source, too, and is followed by nothing if no upgrade
    starts at it.
    """
    paths: dict[str, dict[str, None]] = {}
    for source, *targets in suite.upgrades:
        paths.setdefault(source, {source: None}).update(dict.fromkeys(targets))
    for name in fit_backbones(suite):
        paths.setdefault(name, {name: None})
    return {source: tuple(backbones) for source, backbones in paths.items()}


def plan(cells: Iterable[Cell], store: RunStore) -> list[PlannedCell]:
    """The cells with what the store holds of each."""
    return [PlannedCell(cell, store.read(cell.key)) for cell in cells]
