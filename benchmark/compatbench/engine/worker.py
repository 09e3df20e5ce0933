"""Runs cells: fits a module once, and has it predict on every backbone.

No label of a test set is seen here, and nothing is judged: what is left is a module and its
predictions, which ``compatbench.results`` scores.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.build import allow_tf32
from compatbench.backbone.device import PeakMemory, resolve_device, wait_for
from compatbench.backbone.parts.memory import set_memory_budget
from compatbench.backbone.parts.products import fast_products
from compatbench.backbone.words import WordFeatures, save_words
from compatbench.data.cards import COPIED
from compatbench.data.draws import draw_shots, load_test_set
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.data.task import load_task
from compatbench.engine.attach import Attached, Carried
from compatbench.engine.cell import Cell, CellRecord, Outcome, Where, describe_cell
from compatbench.engine.compute import Compute
from compatbench.engine.keys import find_teacher
from compatbench.engine.predict import predict_zero_shot
from compatbench.engine.store import RunStore
from compatbench.engine.task_images import TaskImages, hide_labels
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.method import FewShotData, Method, Module
from compatbench.method.mistakes import check_module, explain
from compatbench.method.predictions import Predictions
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.method.transfer import UndeclaredAccess


class Worker:
    """Runs cells in this process, keeping backbones and features at hand between them."""

    def __init__(
        self,
        store: RunStore,
        features: FeatureCache,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.store = store
        self.cache = features
        self.threads = threads
        self.on_loaded: Callable[[], object] = lambda: None  # called when weights are at hand
        self._memory = PeakMemory(device)
        self._keep = lru_cache(maxsize=4)(partial(load_backbone, device=device))
        self._words = WordFeatures(features.folder.parent)

    @fast_products()
    def run(
        self, cell: Cell, on_predicted: Callable[[Outcome], object] = lambda _: None
    ) -> CellRecord:
        """Runs what is left of a cell, and keeps module and predictions as soon as they exist.

        An error in the method, of the machine, or of an image becomes a record; another in the
        user's input, or in the store, is raised.
        """
        self._memory.reset()
        torch.set_num_threads(self.threads)
        gc.set_threshold(700)  # Python's own, for cycles may hold large tensors
        try:
            with threadpool_limits(limits=self.threads):
                return self._run(cell, on_predicted)
        except Exception as error:
            if isinstance(error, CompatbenchError) and not isinstance(error, BrokenImages):
                raise
            return self.store.write_failure(cell, explain(error), self._memory.read())

    def _load(self, name: str, precision: str) -> Backbone:
        """A backbone with the weights at hand, or loaded now."""
        allow_tf32(precision == "tf32")  # since it was loaded, another cell may have set it
        backbone = self._keep(name, precision=precision)
        self.on_loaded()
        return backbone

    def _run(self, cell: Cell, on_predicted: Callable[[Outcome], object]) -> CellRecord:
        method = build_method(cell)
        done, module = self._fitted(cell)
        if cell.key != cell.fit_key:  # through a transfer: what is known of this module already
            names = ("status", "fit_seconds", "parameters", "module_bytes", "module")
            new = describe_cell(cell, **{name: getattr(done, name) for name in names})
            before = self.store.read(cell.key)
            done = before if before is not None and before.module == new.module else new
        left = self.store.left(cell, done)
        predictions = self.store.read_predictions(cell.key) if left else {}
        for name in dict.fromkeys(backbone for backbone, _, _ in left):
            places = [where for where in left if where[0] == name]
            backbone = self._load(name, cell.training.precision)
            outcomes = {outcome.where[:2]: outcome for outcome in done.records}
            for outcome in self._predict(cell, method, module, backbone, places, predictions):
                outcomes.pop(outcome.where[:2], None)  # the new one comes last
                outcomes[outcome.where[:2]] = outcome
                on_predicted(outcome)
            self.store.write_predictions(cell.key, predictions)
            done = done.model_copy(update={"records": tuple(outcomes.values())})
            done = self._with_peak(done)
            self.store.write(done)
        return done

    def _fitted(self, cell: Cell) -> tuple[CellRecord, Module]:
        """The cell's fit, from the store or made now; transfers of one module share it."""
        if (fitted := self._read_fit(cell)) is not None:
            return fitted
        with self.store.lock_fit(cell.fit_key):
            if (fitted := self._read_fit(cell)) is not None:
                return fitted
            record, module = self.fit(cell)
            record = self._with_peak(record)
            self.store.write_module(module, record)
            self.store.write(record)
            return record, module

    def _with_peak(self, record: CellRecord) -> CellRecord:
        """Return a record with the most memory of this attempt and of earlier ones."""
        peak = max(record.peak_memory or 0, self._memory.read() or 0)
        return record.model_copy(update={"peak_memory": peak or None})

    def _read_fit(self, cell: Cell) -> tuple[CellRecord, Module] | None:
        record = self.store.read(cell.fit_key)
        module = self.store.read_module(record) if record and record.status == "ok" else None
        return None if record is None or module is None else (record, module)

    @fast_products()
    def fit(self, cell: Cell) -> tuple[CellRecord, Module]:
        """Fit a module and return it with the record of its fit; store neither.

        The time in the record is that of the fit alone, without the encoding of its images.
        """
        method = build_method(cell)
        backbone = self._load(cell.source, cell.training.precision)
        data = self.few_shot_data(cell, backbone, method)
        rng = torch.Generator().manual_seed(cell.seed)
        wait_for(backbone.device)
        start = time.perf_counter()
        module = method.fit(backbone, data, rng)
        check_module(module, method.fit)
        return _describe_fit(cell, module, backbone.device, start)

    def few_shot_data(
        self, cell: Cell, backbone: Backbone, method: Method | None = None
    ) -> FewShotData:
        """The cell's few-shot draw, as features of a backbone and what else its method needs."""
        method = method or build_method(cell)
        images = self._images(cell)
        most = cell.training.val_shots
        task = load_task(cell.task)
        draw = draw_shots(task, cell.shots, cell.seed, most, cell.held_out_of)
        return images.few_shot(draw, cell.shots, backbone, method, self._teacher(cell, method))

    def _teacher(self, cell: Cell, method: Method) -> Backbone | None:
        name = find_teacher(method.card, cell.config)
        return None if name is None else self._load(name, cell.training.precision)

    def _images(self, cell: Cell) -> TaskImages:
        return TaskImages(hide_labels(load_task(cell.task)), cell.training, cell.seed, self.cache)

    def _predict(
        self,
        cell: Cell,
        method: Method,
        module: Module,
        backbone: Backbone,
        places: list[Where],
        predictions: dict[Where, Predictions],
    ) -> Iterator[Outcome]:
        """How a module's predictions went on one backbone; they are added to ``predictions``."""
        images = self._images(cell)
        source = self._load(cell.source, cell.training.precision)
        # On its own source a module is attached as it is, whatever the transfer.
        label = COPIED if backbone.name == cell.source else cell.transfer
        transfer = find_transfer(label, cell.transfer_plugin)
        labels = images.task.labels_for(method.card.needs)

        def attach() -> Attached:
            moved, teacher = module.to(backbone.device), self._teacher(cell, method)
            carried = Carried(method, moved, source, backbone, labels, images, teacher)
            data = carried.data(transfer, self._words)
            if "words" in transfer.card.access:
                save_words(self.store.folder / "modules", source, self._words.of(source))
            return carried.attach(transfer, data, diversity=cell.transfer == COPIED)

        attached = _attempt(attach)
        for where in places:
            try:
                test_set, fitting = hide_labels(load_test_set(where[1])), attached
                if not self.store.has_zero_shot(where, cell.training.precision):
                    zero_shot = predict_zero_shot(backbone, test_set, self.cache)
                    self.store.write_zero_shot(where, cell.training.precision, zero_shot)
                # A variant has its task's classes, or some of them.
                if isinstance(attached, Attached) and cell.task not in (where[1], test_set.parent):
                    others = test_set.labels_for(method.card.needs)
                    fitting = _attempt(partial(attached.to_others, others))
                if isinstance(fitting, Attached):
                    wait_for(backbone.device)
                    start = time.perf_counter()
                    predictions[where] = fitting.predict(test_set)
                    seconds = fitting.seconds + time.perf_counter() - start
                    ended = {"status": "ok", "prompt_diversity": fitting.diversity}
                    ended["seconds"] = round(seconds, 4)
                else:
                    ended = fitting
            except Exception as error:
                if isinstance(error, CompatbenchError) and not isinstance(error, BrokenImages):
                    raise
                ended = _describe_failure(error)
            place = dict(zip(("backbone", "test_set", "data"), where, strict=True))
            yield Outcome.model_validate(place | ended)


def make_worker(store: Path, cache: Path, compute: Compute) -> Worker:
    """A worker in this process, on the device that ``compute`` names."""
    set_memory_budget(compute.memory_budget)
    features = FeatureCache(cache, limit=compute.cache_limit, decoders=compute.count_decoders())
    device = resolve_device(compute.device)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)  # or pinned memory would be registered with the first, too
    return Worker(RunStore(store), features, device, compute.threads)


def build_method(cell: Cell) -> Method:
    """The method of a cell with its settings, from the plug-in file that it is from."""
    cls = builtin_methods().get(cell.method, cell.plugin)
    return cls(cls.Config.model_validate(cell.config))


def _describe_fit(
    cell: Cell, module: Module, device: torch.device, start: float
) -> tuple[CellRecord, Module]:
    """Return the record of a fit that began at ``start``, and its module."""
    module = module.detach()
    module.about["labels"] = load_task(cell.task).labels.described
    wait_for(device)
    seconds = time.perf_counter() - start
    record = describe_cell(
        cell.copied,
        status="ok",
        fit_seconds=round(seconds, 4),
        parameters=module.parameters,
        module_bytes=module.bytes,
        module=module.fingerprint,
    )
    return record, module


def _attempt(attach: Callable[[], Attached]) -> Attached | dict[str, Any]:
    """What is attached, or else why nothing is, as a record has it."""
    try:
        return attach()
    except UndeclaredAccess:
        raise
    except Exception as error:
        return _describe_failure(error)


def _describe_failure(error: Exception) -> dict[str, str]:
    """Status and reason of a record without a number."""
    if isinstance(error, NotTransferable):
        return {"status": "not transferable", "reason": error.reason}
    return {"status": "failed", "reason": explain(error)}
