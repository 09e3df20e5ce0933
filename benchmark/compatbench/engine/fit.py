"""Runs one cell: draws the shots, fits the module once, measures it on every backbone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, ImageInput, load_backbone
from compatbench.data.draws import draw_shots
from compatbench.data.feature_cache import FeatureCache, StoredRows
from compatbench.data.shots import ALL_SHOTS
from compatbench.data.task import Sample, Task, load_task
from compatbench.data.views import View
from compatbench.engine.cell import Cell, CellRecord, Record
from compatbench.engine.failures import describe_exception
from compatbench.engine.heap import keep_freed_memory
from compatbench.engine.keys import data_key
from compatbench.engine.plan import missing_records
from compatbench.engine.predictions import (
    Predictions,
    Where,
    calibration_error,
    count_flips,
    predict,
)
from compatbench.engine.provenance import provenance
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.method import Classifier, FeatureSet, FewShotData, Method, Module
from compatbench.method.registry import builtin_methods


class Worker:
    """Runs cells in this process, keeping backbones and features at hand between them."""

    def __init__(
        self, store: RunStore, cache: FeatureCache, device: str = "cpu", threads: int = 1
    ) -> None:
        self.store = store
        self.cache = cache
        self.threads = threads
        self._load = lru_cache(maxsize=4)(partial(load_backbone, device=device))
        keep_freed_memory()

    def run(self, cell: Cell, on_record: Callable[[Record], None] = lambda _: None) -> CellRecord:
        """Runs what is missing of a cell and keeps each record as soon as it is measured.

        An error in the method becomes a record; an error in the user's input or in
        the store is raised.

        Raises:
            CompatbenchError: broken data, or a store that cannot be written.
        """
        torch.set_num_threads(self.threads)
        with threadpool_limits(limits=self.threads):
            return self._run(cell, on_record)

    def _run(self, cell: Cell, on_record: Callable[[Record], None]) -> CellRecord:
        done = self.store.read(cell.key)
        try:
            method = _build_method(cell)
            module = self.store.read_module(done) if done and done.status == "ok" else None
            if done is None or module is None:
                done, module = self._fit(cell, method)
        except CompatbenchError:
            raise
        except Exception as error:
            failure = describe_exception(error)
            done = describe_cell(cell, error=failure.error, trace=failure.trace)
            self.store.write(done)
            return done
        missing = missing_records(cell, done)
        answers = self.store.read_predictions(cell.key) if missing else {}
        for name in dict.fromkeys(backbone for backbone, _ in missing):
            backbone = self._load(name, precision=cell.training.precision)
            test_sets = [test_set for backbone, test_set in missing if backbone == name]
            measured = self._measure(cell, method, module, backbone, test_sets, answers)
            self.store.write_predictions(cell.key, answers)
            for record in measured:
                kept = [
                    r for r in done.records if (r.backbone, r.test_set) != (name, record.test_set)
                ]
                done = done.model_copy(update={"records": (*kept, record)})
                on_record(record)
            self.store.write(done)
        return done

    def _fit(self, cell: Cell, method: Method) -> tuple[CellRecord, Module]:
        backbone = self._load(cell.source, precision=cell.training.precision)
        data = self.few_shot_data(cell, backbone, method.image_input(backbone))
        rng = torch.Generator().manual_seed(cell.seed)
        start = time.perf_counter()
        module = method.fit(backbone, data, rng).detach()
        seconds = time.perf_counter() - start
        record = describe_cell(
            cell,
            status="ok",
            fit_seconds=round(seconds, 4),
            parameters=module.parameters,
            module_bytes=module.bytes,
            module=module.fingerprint,
        )
        self.store.write_module(module, record)
        self.store.write(record)
        return record, module

    def few_shot_data(
        self, cell: Cell, backbone: Backbone, wanted: ImageInput = FEATURES
    ) -> FewShotData:
        """The cell's few-shot draw, as features of a backbone and what else is wanted of it."""
        task = load_task(cell.task)
        draw = draw_shots(task, cell.shots, cell.seed, cell.shots_file)
        training, plain = cell.training, [View()]
        views = [View(i + 1, training.crop_scale, training.flip) for i in range(training.views)]
        return FewShotData(
            labels=task.labels,
            shots=_most_per_class(draw.train) if cell.shots == ALL_SHOTS else cell.shots,
            train=self._feature_set(
                backbone,
                task,
                draw.train,
                views if training.views > 1 else plain,
                wanted,
                task.split("train"),
            ),
            val=self._feature_set(backbone, task, draw.val, plain, wanted, task.split("val")),
        )

    def _feature_set(
        self,
        backbone: Backbone,
        task: Task,
        samples: Sequence[Sample],
        views: list[View],
        wanted: ImageInput,
        split: Sequence[Sample],
    ) -> FeatureSet:
        cache = self.cache
        features = [cache.features(backbone, task, samples, view, split) for view in views]
        return FeatureSet(
            cache.features(backbone, task, samples, split=split),
            torch.stack(features),
            _targets(samples, backbone),
            None
            if wanted == FEATURES
            else [cache.tokens(backbone, task, samples, wanted, view, split) for view in views],
        )

    def _measure(
        self,
        cell: Cell,
        method: Method,
        module: Module,
        backbone: Backbone,
        test_sets: list[str],
        answers: dict[Where, Predictions],
    ) -> list[Record]:
        """The records of a module on one backbone: attached once, then every test set.

        It is attached to the task's classes. For a variant with some of them, the logits of
        these are taken: a module that learned something of each class has no other meaning
        there, and prompts give the same either way.

        Args:
            answers: what the module answered before; what it answers now is added.
        """
        start = time.perf_counter()
        failure: dict[str, str] = {}
        classifier: Classifier | None = None
        wanted = FEATURES
        task = load_task(cell.task)
        try:
            wanted = method.image_input(backbone)
            with torch.no_grad():
                classifier = method.attach(module.to(backbone.device), backbone, task.labels)
        except NotTransferable as reason:
            failure = {"status": "not transferable", "reason": reason.reason}
        except Exception as error:
            failure = {"status": "failed", "reason": describe_exception(error).error}
        attach_seconds = time.perf_counter() - start
        records = []
        for name in test_sets:
            test_set = load_task(name)
            where = {
                "backbone": backbone.name,
                "test_set": name,
                "data": data_key(backbone.name, name),
            }
            if classifier is None:
                records.append(Record.model_validate(where | failure))
                continue
            samples = test_set.split("test")
            features = self.cache.features(backbone, test_set, samples)
            targets = _targets(samples, backbone)
            zero_shot = features @ backbone.zero_shot(test_set.labels).T
            inputs = features
            try:
                if wanted != FEATURES:
                    inputs = self.cache.tokens(backbone, test_set, samples, wanted)
            except NotTransferable as reason:
                refused = {"status": "not transferable", "reason": reason.reason}
                records.append(Record.model_validate(where | refused))
                continue
            start = time.perf_counter()
            try:
                logits = _classify(classifier, inputs)
                logits = _check_logits(logits, len(samples), len(task.labels))
                logits = test_set.select_columns(logits)
            except Exception as error:
                failed = {"status": "failed", "reason": describe_exception(error).error}
                records.append(Record.model_validate(where | failed))
                continue
            seconds = round(attach_seconds + time.perf_counter() - start, 4)
            found = predict(logits)
            answers[backbone.name, name, where["data"]] = found
            before = answers.get((cell.source, name, data_key(cell.source, name)))
            flips = None
            if before is not None and backbone.name != cell.source:
                flips = count_flips(before, found, targets)
            records.append(
                Record(
                    **where,
                    status="ok",
                    correct=_count_correct(logits, targets),
                    total=len(samples),
                    zero_shot_correct=_count_correct(zero_shot, targets),
                    negative_flips=flips and flips.negative,
                    positive_flips=flips and flips.positive,
                    inconsistent_errors=flips and flips.inconsistent,
                    ece=round(calibration_error(found, targets), 4),
                    seconds=seconds,
                )
            )
        return records


def _build_method(cell: Cell) -> Method:
    registry = builtin_methods()
    if cell.plugin is not None and cell.method not in registry.classes:
        registry.add_file(Path(cell.plugin))
    cls = registry.get(cell.method)
    return cls(cls.Config.model_validate(cell.config))


def _most_per_class(samples: Sequence[Sample]) -> int:
    """Images of the largest class; recipes that count in shots need a number for *all*."""
    return max(Counter(sample.label for sample in samples).values(), default=0)


def _targets(samples: Sequence[Sample], backbone: Backbone) -> Tensor:
    return torch.tensor(
        [sample.label for sample in samples], dtype=torch.long, device=backbone.device
    )


@torch.no_grad()
def _classify(classifier: Classifier, inputs: Tensor | StoredRows) -> Tensor:
    """Logits of all images; what lies on disk is read and classified batch by batch."""
    if isinstance(inputs, Tensor):
        return classifier(inputs)
    return torch.cat([classifier(batch) for batch in inputs.batches()])


def _check_logits(logits: Tensor, images: int, classes: int) -> Tensor:
    if tuple(logits.shape) != (images, classes):
        raise ValueError(f"logits have shape {list(logits.shape)}, not [{images}, {classes}]")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("logits are not finite")
    return logits


def _count_correct(logits: Tensor, targets: Tensor) -> int:
    return int((logits.argmax(-1) == targets).sum())


def describe_cell(cell: Cell, status: str = "failed", **values: object) -> CellRecord:
    """A record of a cell with these values; without any, of a failed one."""
    return CellRecord.model_validate(
        {
            "key": cell.key,
            "method": cell.method,
            "config": cell.config,
            "task": cell.task,
            "source": cell.source,
            "shots": cell.shots,
            "seed": cell.seed,
            "status": status,
            "provenance": provenance(),
            **values,
        }
    )
