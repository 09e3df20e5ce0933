"""What the studies share: an upgrade, the suite it is looked at in, and fits on its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from typing_extensions import Unpack

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.words import WordFeatures
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import (
    COPIED,
    SuiteCard,
    select_names,
    suite_cards,
    suite_tasks,
    task_cards,
)
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task, load_task
from compatbench.engine.cell import Cell
from compatbench.engine.compute import Compute
from compatbench.engine.execute.events import Event
from compatbench.engine.execute.run_plan import run_plan
from compatbench.engine.matrix import Matrix, Names, select_matrix
from compatbench.engine.plan import Plan
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.method import Method, Module
from compatbench.method.registry import MethodRegistry
from compatbench.results.collect import rows_of
from compatbench.results.rows import Row


class StudyOptions(TypedDict, total=False):
    """What every analysis can be told.

    Attributes:
        suite, device, out: as for ``run``.
        jobs: worker processes of the fits; by default one per core, and one on a GPU.
        on_start, on_event: are called for each fit, as in ``run``.
    """

    suite: str | SuiteCard
    device: str
    out: str | Path
    jobs: int | None
    on_start: Callable[[Plan, int], object]
    on_event: Callable[[Event], object]


@dataclass(frozen=True)
class Fit:
    """A module that was fitted on the source, with its method, its cell and its rows."""

    cell: Cell
    method: Method
    module: Module
    rows: tuple[Row, ...]


class Study:
    """An upgrade, and the suite that it is looked at in, which gives what a study is not given."""

    def __init__(self, source: str, target: str, **options: Unpack[StudyOptions]) -> None:
        self.source, self.target, self.options = source, target, options
        self.card = suite_cards.read(options.get("suite", "mini"))
        self.out = Path(options.get("out", "."))
        self.device = options.get("device", "auto")
        self.cache = FeatureCache(default_cache_folder())
        self.words = WordFeatures(default_cache_folder())

    @cached_property
    def backbones(self) -> tuple[Backbone, Backbone]:
        """Source and target, loaded; an error if a name is unknown, or weights are not here."""
        device = resolve_device(self.device)
        return load_backbone(self.source, device), load_backbone(self.target, device)

    def load_tasks(self, wanted: Names | None) -> list[Task]:
        """The tasks that names and globs mean, by default those of the suite."""
        chosen = suite_tasks(self.card) if wanted is None else task_cards.select_names(wanted)
        return [load_task(name) for name in chosen]

    def matrix(
        self,
        registry: MethodRegistry,
        methods: Names,
        tasks: Names | None,
        shots: int | None,
        seeds: Sequence[int] | None,
        changes: Mapping[str, Any] | None = None,
    ) -> Matrix:
        """The cells of methods on this upgrade and on tasks that have training images.

        Args:
            tasks, shots, seeds: by default the suite's, and its largest number of shots.
            changes: of the suite's card.

        Raises:
            CompatbenchError: an unknown name, or one backbone as source and target.
        """
        if self.source == self.target:
            raise CompatbenchError(
                f"'{self.source}' is both source and target; an upgrade needs two"
            )
        trained = [name for name in task_cards.names() if task_cards.read(name).parent is None]
        chosen = select_names(tasks or suite_tasks(self.card), trained, "task to learn from")
        asked = {"tasks": tuple(chosen), "upgrades": ((self.source, self.target),), "variants": ()}
        suite = self.card.model_copy(update={**(changes or {}), **asked, "retrained": False})
        numbers = [shots or max(suite.shots)]
        return select_matrix(suite, registry, methods, "all", numbers, seeds, [COPIED])

    def fit(self, matrix: Matrix, cells: Sequence[Cell], store: RunStore) -> list[Fit]:
        """The modules of a matrix's cells; what the store has is not fitted again.

        Raises:
            CompatbenchError: broken data, a store that cannot be written, or a fit that failed.
        """
        compute = Compute(device=self.device, jobs=self.options.get("jobs"))
        follow = [self.options.get(name, lambda *_: None) for name in ("on_start", "on_event")]
        run_plan(Plan(matrix, tuple(cells), store), compute, *follow)
        fits = []
        for cell in cells:
            record = store.read(cell.key)
            module = store.read_module(record) if record is not None else None
            if record is None or module is None:
                why = record.error if record is not None else "it was not run"
                raise CompatbenchError(f"the fit of {cell} failed: {why}")
            cls = matrix.registry.get(cell.method)
            method = cls(cls.Config.model_validate(cell.config))
            fits.append(Fit(cell, method, module, tuple(rows_of(cell, record, store))))
        return fits
