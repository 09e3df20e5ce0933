"""What every study is told: the two models, the suite, and where to compute and to keep fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from compatbench.backbone import Backbone, load_backbone
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import (
    SuiteCard,
    select_names,
    suite_cards,
    suite_tasks,
    task_cards,
)
from compatbench.data.cards.suite import COPIED
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task, load_task
from compatbench.engine.cell import Cell
from compatbench.engine.execute.device import count_cores, resolve_device
from compatbench.engine.execute.local import run_cells
from compatbench.engine.execute.settings import OnEvent, Settings
from compatbench.engine.matrix import select_matrix
from compatbench.engine.plan import plan, plan_cells
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.method import Method, Module
from compatbench.method.registry import builtin_methods
from compatbench.results.measures import Upgrade
from compatbench.transfer.words import WordFeatures

Names = str | Sequence[str]
# Told the cells that will be run and how many side by side; gives what is told of each event.
Watch = Callable[[Sequence[Cell], int], AbstractContextManager[OnEvent]]


def _unwatched(cells: Sequence[Cell], jobs: int) -> AbstractContextManager[OnEvent]:
    return nullcontext(lambda event: None)


@dataclass(frozen=True)
class FittedModule:
    """A module of a cell with its method."""

    cell: Cell
    method: Method
    module: Module


@dataclass(frozen=True)
class StudySetup:
    """The two models of a study, its suite, and where to compute and to keep fits.

    Attributes:
        source, target: names of the backbones.
        suite: gives tasks, shots, seeds and results, unless a study is told others.
        out: folder of ``results/`` and ``runs/``.
        jobs: worker processes of the fits.
        watch: shows the progress of the fits.
    """

    source: str
    target: str
    suite: SuiteCard
    out: Path = Path()
    device: str = "cpu"
    jobs: int = 1
    watch: Watch = _unwatched

    @classmethod
    def make(
        cls,
        source: str,
        target: str,
        suite: str | SuiteCard,
        device: str = "auto",
        out: str | Path = ".",
        jobs: int | None = None,
        watch: Watch | None = None,
    ) -> StudySetup:
        """The setup of a suite by its name, on a device that is here.

        Args:
            jobs: by default one per core, or one on a GPU.

        Raises:
            CompatbenchError: an unknown suite, or a device that is not here.
        """
        card = suite_cards.read(suite) if isinstance(suite, str) else suite
        on = resolve_device(device)
        workers = jobs or (count_cores() if on == "cpu" else 1)
        return cls(source, target, card, Path(out), on, workers, watch or _unwatched)

    @cached_property
    def backbones(self) -> tuple[Backbone, Backbone]:
        """Source and target, loaded.

        Raises:
            CompatbenchError: an unknown name, or weights that are not here.
        """
        return load_backbone(self.source, self.device), load_backbone(self.target, self.device)

    @property
    def cache(self) -> FeatureCache:
        return FeatureCache(default_cache_folder())

    @property
    def words(self) -> WordFeatures:
        return WordFeatures(default_cache_folder())

    def of_pair(self, pair: Upgrade) -> StudySetup:
        """The same of another upgrade."""
        return replace(self, source=pair[0], target=pair[1])

    def load_tasks(self, wanted: Names | None = None) -> list[Task]:
        """The tasks that names and globs mean, by default those of the suite.

        Raises:
            CompatbenchError: an unknown name, or a broken card.
        """
        if wanted is None:
            return [load_task(name) for name in suite_tasks(self.suite)]
        return [load_task(name) for name in select_names(wanted, task_cards.names(), "task")]

    def training_tasks(self, wanted: Names | None = None) -> list[str]:
        """The same, but names alone, and of tasks that have training images."""
        names = [name for name in task_cards.names() if task_cards.read(name).parent is None]
        wanted = wanted or ",".join(suite_tasks(self.suite))
        return select_names(wanted, names, "task to learn from")

    def require_upgrade(self) -> None:
        """Raises CompatbenchError: source and target are the same."""
        if self.source == self.target:
            raise CompatbenchError(
                f"'{self.source}' is both source and target; an upgrade needs two"
            )

    def run(self, cells: Sequence[Cell], store: RunStore) -> None:
        """Runs the cells that the store does not have yet.

        Raises:
            CompatbenchError: broken data, or a store that cannot be written.
        """
        left = [item.cell for item in plan(cells, store) if not item.done]
        if left:
            settings = Settings(store.folder, default_cache_folder(), self.device)
            with self.watch(left, self.jobs) as on_event:
                run_cells(left, settings, self.jobs, on_event)

    def fit_modules(
        self, methods: Names, tasks: Names | None, shots: int | None, seeds: Sequence[int] | None
    ) -> list[FittedModule]:
        """Modules of methods on the source, fitted unless ``runs/`` has them.

        Args:
            methods, tasks: names and globs.
            shots, seeds: by default the suite's largest number of shots, and its seeds.

        Raises:
            CompatbenchError: an unknown name, or a fit that failed.
        """
        self.require_upgrade()
        registry, upgrade = builtin_methods(), (self.source, self.target)
        choices = select_matrix(self.suite, registry, methods, transfers=[COPIED]).choices
        names = [choice.name for choice in choices]
        changes = {"upgrades": (upgrade,), "variants": ()}
        suite = self.suite.model_copy(update=changes | {"tasks": tuple(self.training_tasks(tasks))})
        planned = plan_cells(suite, registry, names, seeds=seeds, shots=[shots or max(suite.shots)])
        cells = [replace(cell, backbones=(self.source,)) for cell in planned]
        store = RunStore(self.out / "runs")
        self.run(cells, store)
        fitted = []
        for cell in cells:
            record = store.read(cell.key)
            module = store.read_module(record) if record is not None else None
            if record is None or module is None:
                why = record.error if record is not None else "it was not run"
                raise CompatbenchError(f"the fit of {cell} failed: {why}")
            cls = registry.get(cell.method)
            fitted.append(FittedModule(cell, cls(cls.Config.model_validate(cell.config)), module))
        return fitted
