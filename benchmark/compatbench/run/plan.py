"""The plan: every cell of a suite for some methods, and what is already done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import ValidationError

from compatbench.cards import SuiteCard, select_names
from compatbench.cards.suites import suite_tasks, suite_variants
from compatbench.errors import CompatbenchError
from compatbench.method import Method
from compatbench.method.registry import MethodRegistry, method_source_hash
from compatbench.run.cell import Cell, CellRecord
from compatbench.run.keys import cell_key, data_key
from compatbench.run.store import RunStore
from compatbench.task.draws import ShotsFiles


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
        if self.record is None:
            return False
        return self.record.status == "failed" or any(
            record.status == "failed" for record in self.record.records
        )


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
) -> list[Cell]:
    """Every cell of a suite for these methods.

    Cells of one task and seed stand together, so that features are shared while
    they are in memory.

    Args:
        files: draws that are given and not made here.

    Raises:
        CompatbenchError: an unknown task or method, a broken card, or a setting that
            a method does not know.
    """
    prepared = [_prepare(registry.get(name), suite) for name in methods]
    draws = list(product(shots or suite.shots, seeds or suite.seeds))
    training = suite.training.model_dump(mode="json", exclude={"max_steps"})
    cells = []
    for task in select_names(tasks, suite_tasks(suite), "task in this suite"):
        test_sets = (task, *suite_variants(suite, task))
        for source, backbones in _paths(suite).items():
            for draw, method in product(draws, prepared):
                if not method.learns:
                    # It sees no image: one cell stands for every draw.
                    if draw != draws[0]:
                        continue
                    draw = suite.shots[0], suite.seeds[0]
                count, seed = draw
                file = (files or {}).get((task, count, seed)) if method.learns else None
                key = cell_key(
                    method.name,
                    method.source_hash,
                    method.config,
                    source,
                    task,
                    count,
                    seed,
                    training,
                    file,
                )
                cells.append(
                    Cell(
                        key=key,
                        method=method.name,
                        config=method.config,
                        task=task,
                        shots=count,
                        seed=seed,
                        backbones=backbones,
                        test_sets=test_sets,
                        training=suite.training,
                        plugin=method.plugin,
                        shots_file=file,
                    )
                )
    return cells


@dataclass(frozen=True)
class _Prepared:
    """What all cells of a method have in common."""

    name: str
    learns: bool
    config: dict[str, Any]
    source_hash: str
    plugin: str | None


def _prepare(cls: type[Method], suite: SuiteCard) -> _Prepared:
    return _Prepared(
        cls.card.name,
        cls.card.learns,
        resolve_config(cls, suite),
        method_source_hash(cls),
        MethodRegistry.plugin_file(cls),
    )


def _paths(suite: SuiteCard) -> dict[str, tuple[str, ...]]:
    """Per source, itself and every backbone that some upgrade from it reaches."""
    paths: dict[str, dict[str, None]] = {}
    for source, *targets in suite.upgrades:
        paths.setdefault(source, {source: None}).update(dict.fromkeys(targets))
    return {source: tuple(backbones) for source, backbones in paths.items()}


def resolve_config(cls: type[Method], suite: SuiteCard) -> dict[str, Any]:
    """A method's settings in a suite: its recipe, what the suite changes, and the cap on steps.

    Raises:
        CompatbenchError: the suite sets something the method does not know.
    """
    values = dict(suite.methods.get(cls.card.name, {}))
    if "max_steps" in cls.Config.model_fields and suite.training.max_steps is not None:
        values.setdefault("max_steps", suite.training.max_steps)
    values = _merge_recipe(cls, values)
    try:
        return cls.Config(**values).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CompatbenchError(
            f"suite '{suite.name}': setting '{field}' of method '{cls.card.name}': {first['msg']}"
        ) from None


def _merge_recipe(cls: type[Method], values: dict[str, Any]) -> dict[str, Any]:
    """A suite names only the parts of a recipe that it changes."""
    changed = values.get("recipe")
    if isinstance(changed, dict) and "recipe" in cls.Config.model_fields:
        default = cls.Config.model_fields["recipe"].default.model_dump()
        values["recipe"] = default | changed
    return values


def plan(cells: Iterable[Cell], store: RunStore) -> list[PlannedCell]:
    """The cells with what the store holds of each."""
    return [PlannedCell(cell, store.read(cell.key)) for cell in cells]
