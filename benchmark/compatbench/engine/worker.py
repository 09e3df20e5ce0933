"""The loop of a worker: claim a cell, fit its module, predict on every backbone, release the cell.

A claim is a lock that the system releases when the process ends, so any number of runs, on any
machines that see one folder, may share it. A worker sees no label of a test set and judges
nothing: it leaves a module and its predictions, which ``compatbench.results`` scores.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from threadpoolctl import threadpool_limits

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.build import allow_tf32
from compatbench.backbone.device import PeakMemory, resolve_device, wait_for
from compatbench.backbone.parts.memory import set_memory_budget
from compatbench.backbone.words import WordFeatures, save_words
from compatbench.data.cards import COPIED
from compatbench.data.draws import draw_shots, load_test_set
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.data.task import Task, load_task
from compatbench.engine.attach import Attached, Carried
from compatbench.engine.cell import Cell, CellRecord, Outcome, Where, describe_cell
from compatbench.engine.compute import Compute
from compatbench.engine.keys import find_teacher
from compatbench.engine.predict import predict_zero_shot
from compatbench.engine.store import RunStore
from compatbench.engine.task_images import TaskImages, hide_labels
from compatbench.errors import (
    CompatbenchError,
    CompatbenchWarning,
    FolderError,
    NotTransferable,
)
from compatbench.messages import first_line
from compatbench.method import FewShotData, Method, Module
from compatbench.method.mistakes import check_module, explain
from compatbench.method.predictions import Predictions
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.method.transfer import ModulePair, UndeclaredAccess

BACKBONES_IN_MEMORY = 4
PYTHON_GC_THRESHOLD = 700  # Python's own


class Order(NamedTuple):
    """A cell for a worker.

    Attributes:
        not_before: when to give it to a worker, by ``time.monotonic``.
        was_held: another run had it, so a failure that is recorded by now is its result.
        error: a failure to record instead of running the cell: workers have died of it.
    """

    cell: Cell
    not_before: float = 0.0
    was_held: bool = False
    error: str = ""


# Receives the kind of a message and its value. The kinds are ``ready`` (for an order), ``held``
# (another run has claimed the cell), ``started``, ``loaded`` (weights are in memory), ``encoding``
# (images done, and in all), ``waits`` (another process encodes these images, or makes this fit),
# ``measured`` (one more place), ``ended`` (the error, empty if there is none), ``died`` (the
# error), ``warning`` (its text) and ``broken`` (what is wrong with the user's input or folders; it
# ends the run).
Tell = Callable[[str, Any], object]


def run_cell(worker: Worker, order: Order, tell: Tell) -> None:
    """Run a cell unless another run holds it, tell how it ended, and be ready for another."""
    with worker.store.claim(order.cell.key) as claimed:
        if claimed:
            kind = "ended"
            error = _run_claimed(worker, order, tell)
        else:
            kind = "held"
            error = ""
    tell(kind, error)
    tell("ready", None)


def _run_claimed(worker: Worker, order: Order, tell: Tell) -> str:
    """Run a claimed cell if it is not finished. Return its error, empty if it has none."""
    cell = order.cell
    store = worker.store
    record = store.read(cell.key)
    failed_elsewhere = order.was_held and record is not None and record.errors
    if order.error:
        record = store.write_failure(cell, order.error)
    elif record is None or not (store.is_done(cell, record) or failed_elsewhere):
        tell("started", None)
        worker.on_loaded = lambda: tell("loaded", None)
        worker.on_wait = lambda: tell("waits", None)
        worker.cache.on_wait = worker.on_wait
        worker.cache.on_encoded = lambda *images: tell("encoding", images)
        record = worker.run(cell, lambda _: tell("measured", None))
    if record.errors:
        return record.errors[0]
    # Whoever still gets the lock of the removed file reads the record first.
    store.claim_path(cell.key).unlink(missing_ok=True)
    return ""


@contextmanager
def tell_problems(tell: Tell) -> Iterator[None]:
    """Tell what is wrong with the user's input or folders, and the project's own warnings."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if category is CompatbenchWarning:
            tell("warning", str(message))

    warnings.showwarning = show
    try:
        yield
    except CompatbenchError as error:
        tell("broken", str(error))
    except OSError as error:
        tell("broken", first_line(error))


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
        self.on_wait: Callable[[], object] = lambda: None  # called while another makes the fit
        self._memory = PeakMemory(device)
        self._keep = lru_cache(maxsize=BACKBONES_IN_MEMORY)(partial(load_backbone, device=device))
        self._words = WordFeatures(features.folder.parent)

    def run(
        self, cell: Cell, on_predicted: Callable[[Outcome], object] = lambda _: None
    ) -> CellRecord:
        """Run what is left of a cell. Store module and predictions as soon as they exist.

        An error in the method, of the machine, or of an image becomes a record. Another error in
        the user's input, or in the store, is raised.
        """
        self._memory.reset()
        torch.set_num_threads(self.threads)
        gc.set_threshold(PYTHON_GC_THRESHOLD)  # for cycles may hold large tensors
        try:
            with threadpool_limits(limits=self.threads):
                return self._run(cell, on_predicted)
        except Exception as error:
            if _ends_the_run(error):
                raise
            return self.store.write_failure(cell, explain(error), self._memory.read())

    def _run(self, cell: Cell, on_predicted: Callable[[Outcome], object]) -> CellRecord:
        method = build_method(cell)
        record, module = self._read_or_fit(cell)
        if cell.key != cell.fit_key:
            record = self._start_transfer(cell, record)
        # Reading sets a damaged file aside; only then are its places left.
        predictions = self.store.read_predictions(cell.key)
        left = self.store.left(cell, record)
        for name in dict.fromkeys(backbone for backbone, _, _ in left):
            places = [where for where in left if where[0] == name]
            backbone = self._load(name, cell.training.precision)
            outcomes = {(done.backbone, done.test_set): done for done in record.records}
            for outcome in self._predict(cell, method, module, backbone, places, predictions):
                place = (outcome.backbone, outcome.test_set)
                outcomes.pop(place, None)  # the new one comes last
                outcomes[place] = outcome
                on_predicted(outcome)
            # Predictions come first: a record must not promise what is not there.
            self.store.write_predictions(cell.key, predictions)
            record = record.model_copy(update={"records": tuple(outcomes.values())})
            record = self._with_peak(record)
            self.store.write(record)
        return record

    def _read_or_fit(self, cell: Cell) -> tuple[CellRecord, Module]:
        """Return the fit that the cell shares with other transfers, from the store or made now."""
        fitted = self._read_fit(cell)
        if fitted is not None:
            return fitted
        with self.store.lock_fit(cell.fit_key, self.on_wait):
            # Another worker may have finished it while this one waited for the lock.
            fitted = self._read_fit(cell)
            if fitted is not None:
                return fitted
            record, module = self.fit(cell)
            record = self._with_peak(record)
            earlier = self.store.read(cell.fit_key)
            if earlier is not None and earlier.module == record.module:
                # Only the module's file was lost: what it predicted still holds.
                record = record.model_copy(update={"records": earlier.records})
            self.store.write_module(module, record)
            self.store.write(record)
            return record, module

    def _read_fit(self, cell: Cell) -> tuple[CellRecord, Module] | None:
        """Return the stored fit of a cell; None if it failed, or if anything of it is missing."""
        record = self.store.read(cell.fit_key)
        if record is None or record.status != "ok":
            return None
        module = self.store.read_module(record)
        if module is None:
            return None
        return record, module

    def _fit_others(self, cell: Cell, target: Backbone) -> tuple[ModulePair, ...]:
        """Return the modules of other tasks on the source and the target, stored or fitted now."""
        modules = {}
        for other in cell.others:
            if other.source in (cell.source, target.name):
                module = self._fit_other(other)
                modules[other.task, other.source] = module.to(target.device)
        pairs = []
        for task in dict.fromkeys(other.task for other in cell.others):
            source_module = modules[task, cell.source]
            target_module = modules[task, target.name]
            pairs.append(ModulePair(source_module, target_module, len(load_task(task).labels)))
        return tuple(pairs)

    def _fit_other(self, other: Cell) -> Module:
        """Return the module of another task, stored or fitted now.

        Raises:
            CompatbenchError: it cannot be fitted. Whatever the reason, this is no property of the
                module that is transferred.
        """
        try:
            _, module = self._read_or_fit(other)
        except FolderError:
            raise
        except Exception as error:
            raise CompatbenchError(
                f"the module of '{other.task}' on '{other.source}' cannot be fitted: "
                f"{explain(error)}"
            ) from error
        return module

    def _start_transfer(self, cell: Cell, fit: CellRecord) -> CellRecord:
        """Return the record of a cell with a transfer: the stored one if it is of this module."""
        new = describe_cell(
            cell,
            status=fit.status,
            fit_seconds=fit.fit_seconds,
            parameters=fit.parameters,
            module_bytes=fit.module_bytes,
            module=fit.module,
        )
        stored = self.store.read(cell.key)
        if stored is not None and stored.module == new.module:
            return stored
        return new

    def _with_peak(self, record: CellRecord) -> CellRecord:
        """Return a record with the most memory of this attempt and of earlier ones."""
        peak = max(record.peak_memory or 0, self._memory.read() or 0)
        return record.model_copy(update={"peak_memory": peak or None})

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
        module = module.detach()
        wait_for(backbone.device)
        seconds = time.perf_counter() - start
        module.about["labels"] = load_task(cell.task).labels.described
        record = describe_cell(
            cell.copied,
            status="ok",
            fit_seconds=round(seconds, 4),
            parameters=module.parameters,
            module_bytes=module.bytes,
            module=module.fingerprint,
        )
        return record, module

    def few_shot_data(
        self, cell: Cell, backbone: Backbone, method: Method | None = None
    ) -> FewShotData:
        """Return the cell's few-shot draw: features of a backbone, and what its method needs."""
        if method is None:
            method = build_method(cell)
        images = self._images(cell)
        draw = draw_shots(
            load_task(cell.task), cell.shots, cell.seed, cell.training.val_shots, cell.held_out_of
        )
        return images.few_shot(draw, cell.shots, backbone, method, self._teacher(cell, method))

    def _predict(
        self,
        cell: Cell,
        method: Method,
        module: Module,
        backbone: Backbone,
        places: list[Where],
        predictions: dict[Where, Predictions],
    ) -> Iterator[Outcome]:
        """Predict at the places of one backbone. Add to ``predictions``, and yield each outcome."""
        images = self._images(cell)
        source = self._load(cell.source, cell.training.precision)
        # On its own source a module is attached as it is, whatever the transfer.
        label = COPIED if backbone.name == cell.source else cell.transfer
        transfer = find_transfer(label, cell.transfer_plugin, cell.transfer_identity)
        labels = images.task.labels_for(method.card.needs)

        def attach() -> Attached:
            moved = module.to(backbone.device)
            teacher = self._teacher(cell, method)
            others = partial(self._fit_others, cell, backbone)
            carried = Carried(method, moved, source, backbone, labels, images, teacher, others)
            data = carried.data(transfer, self._words)
            if "words" in transfer.card.access:
                save_words(self.store.folder / "modules", source, self._words.of(source))
            return carried.attach(transfer, data, diversity=cell.transfer == COPIED)

        attached = _attempt(attach)
        for where in places:
            name, test_set, data_hash = where
            try:
                task = hide_labels(load_test_set(test_set))
                self._keep_zero_shot(cell, backbone, task, where)
                fitting = attached
                # A variant has its task's classes, or some of them.
                has_other_classes = cell.task not in (test_set, task.parent)
                if isinstance(attached, Attached) and has_other_classes:
                    others = task.labels_for(method.card.needs)
                    fitting = _attempt(partial(attached.to_others, others))
                if isinstance(fitting, Attached):
                    wait_for(backbone.device)
                    start = time.perf_counter()
                    predictions[where] = fitting.predict(task)
                    seconds = fitting.seconds + (time.perf_counter() - start)
                    ended = {
                        "status": "ok",
                        "prompt_diversity": fitting.diversity,
                        "seconds": round(seconds, 4),
                    }
                else:
                    ended = fitting
            except Exception as error:
                if _ends_the_run(error):
                    raise
                ended = _describe_failure(error)
            place = {"backbone": name, "test_set": test_set, "data": data_hash}
            yield Outcome.model_validate(place | ended)

    def _keep_zero_shot(self, cell: Cell, backbone: Backbone, test_set: Task, where: Where) -> None:
        """Store the zero-shot predictions of a place, which every row is compared with."""
        precision = cell.training.precision
        if not self.store.has_zero_shot(where, precision):
            zero_shot = predict_zero_shot(backbone, test_set, self.cache)
            self.store.write_zero_shot(where, precision, zero_shot)

    def _load(self, name: str, precision: str) -> Backbone:
        """Return a backbone whose weights are in memory, after loading them if necessary."""
        allow_tf32(precision == "tf32")  # since it was loaded, another cell may have set it
        backbone = self._keep(name, precision=precision)
        self.on_loaded()
        return backbone

    def _teacher(self, cell: Cell, method: Method) -> Backbone | None:
        name = find_teacher(method.card, cell.config)
        if name is None:
            return None
        return self._load(name, cell.training.precision)

    def _images(self, cell: Cell) -> TaskImages:
        return TaskImages(hide_labels(load_task(cell.task)), cell.training, cell.seed, self.cache)


def make_worker(store: Path, cache: Path, compute: Compute, inode: int | None = None) -> Worker:
    """Return a worker in this process, on the device that ``compute`` names.

    ``inode`` is as for ``RunStore``.
    """
    set_memory_budget(compute.memory_budget)
    features = FeatureCache(cache, limit=compute.cache_limit, decoders=compute.count_decoders())
    device = resolve_device(compute.device)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)  # or pinned memory would be registered with the first, too
    return Worker(RunStore(store, inode), features, device, compute.threads)


def find_method(cell: Cell) -> type[Method]:
    """Return the class of a cell's method, from its plug-in file if it has one.

    Raises:
        CompatbenchError: the file cannot be loaded, or was changed since the cell was planned.
    """
    return builtin_methods().get(cell.method, cell.plugin, cell.identity)


def build_method(cell: Cell) -> Method:
    """Return the method of a cell with its settings."""
    cls = find_method(cell)
    return cls(cls.Config.model_validate(cell.config))


def _attempt(attach: Callable[[], Attached]) -> Attached | dict[str, Any]:
    """Return what is attached, or status and reason of the failure, as an ``Outcome`` has them."""
    try:
        return attach()
    except FolderError:
        raise
    except UndeclaredAccess:  # a mistake in the transfer's card, which all its cells share
        raise
    except Exception as error:
        return _describe_failure(error)


def _describe_failure(error: Exception) -> dict[str, Any]:
    """Return status and reason of an outcome without predictions."""
    if isinstance(error, NotTransferable):
        return {"status": "not transferable", "reason": error.reason}
    return {"status": "failed", "reason": explain(error)}


def _ends_the_run(error: Exception) -> bool:
    """Return True for an error of the user's input, which more cells would only repeat.

    Broken images are the exception: they concern the cells of one test set.
    """
    return isinstance(error, CompatbenchError) and not isinstance(error, BrokenImages)
