"""Imports and evaluations of given modules, kept in ``runs/``: a second call loads no model.

The name of a file is the hash of everything that decides its content: module, models, images, code
and settings. A file that is damaged is made again.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

import compatbench
from compatbench.backbone.load import read_backbone, weights_key
from compatbench.data.cards import TrainingCard
from compatbench.data.task import Task, task_labels
from compatbench.engine.keys import identify, transfer_key
from compatbench.engine.single_module import Fitted, build_method_of, read_fitted
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.extras.advice.targets import describe_target
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import hash_file, sha256_json
from compatbench.files.tensors import load_tensors, save_tensors
from compatbench.method import Module, load_module
from compatbench.method.checkpoint_reader import read_checkpoint
from compatbench.method.convert import choose_classes, import_module
from compatbench.method.predictions import Predictions
from compatbench.method.registry import FormatRegistry, builtin_formats, builtin_methods
from compatbench.results.evaluation import Evaluation, evaluate, settle_module
from compatbench.results.measures import Answers

SCHEMA = "compatbench-answers-1"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Memory:
    """Results of earlier calls with the same modules.

    Attributes:
        folder: of the files.
        methods: the file of the modules' method, if it is not among ``methods()``.
        device: where a model computes.
    """

    folder: Path
    methods: str | None
    device: str

    def evaluate(self, module: Module, target: str, task: Task, transfer: str) -> Evaluation:
        """Return what ``evaluate`` returns, from its file if it is there."""
        _, fitted = read_fitted(module)
        path = self._path(self._identify_evaluation(module, fitted, target, task, transfer))
        with suppress(CompatbenchError):
            tensors, about = load_tensors(path, SCHEMA, "file of answers")
            _repeat(about["warnings"])
            fitted = fitted.model_copy(update=about["settled"])
            before = _unpack(tensors, "source")
            after = _unpack(tensors, "target")
            return Evaluation(fitted, target, task.name, before, after, about["reason"], transfer)
        evaluation, warned = _listen(
            lambda: evaluate(
                module, target, task, transfer=transfer, methods=self.methods, device=self.device
            )
        )
        tensors = _pack(evaluation.source, "source") | _pack(evaluation.target, "target")
        settled = evaluation.fitted.model_dump(mode="json", include={"config", "imported"})
        about = {"settled": settled, "reason": evaluation.reason, "warnings": warned}
        save_tensors(path, tensors, SCHEMA, about)
        return evaluation

    def import_checkpoint(
        self, file: Path, task: Task, source: str, how: Mapping[str, Any]
    ) -> Module:
        """Return the module of a checkpoint, with the settings that fit the task's images best."""
        path = self._path(self._identify_import(file, task, source, how))
        with suppress(CompatbenchError):
            stored = load_module(path)
            _repeat(stored.about["warnings"])
            return Module(stored.trained, stored.stored, stored.about["about"])

        def make() -> Module:
            imported = import_module(
                "auto", file, task.name, source, methods=self.methods, device=self.device, **how
            )
            return settle_module(imported, task, self.device)

        module, warned = _listen(make)
        module.save(path, {"about": module.about, "warnings": warned})
        return module

    def describe(self, target: str) -> dict[str, Any]:
        """Return what a new model costs; to count its parameters, its library has to be loaded."""
        card = read_backbone(target)
        facts = [card.model_dump(mode="json"), weights_key(card)]
        facts += [version("open_clip_torch"), compatbench.__version__]
        path = self._path(sha256_json(facts)).with_suffix(".json")
        with suppress(OSError, ValueError):
            return json.loads(path.read_text(encoding="utf-8"))
        described = describe_target(target)
        write_atomic(path, json.dumps(described).encode())
        return described

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _identify_evaluation(
        self, module: Module, fitted: Fitted, target: str, task: Task, transfer: str
    ) -> str:
        method = build_method_of(fitted, self.methods, Path("the module"))
        code, _ = builtin_methods().identify(fitted.method)
        owner = task.parent or task.name
        parts = [
            identify(code, method.card, owner, fitted.config),
            module.fingerprint,
            module.about,
            *_identify_models(fitted.source, target),
            task.fingerprint(task.split("test")),
            ENGINE_VERSION,
        ]
        seed = fitted.seed or 0
        return transfer_key(sha256_json(parts), transfer, owner, seed, TrainingCard())

    def _identify_import(self, file: Path, task: Task, source: str, how: Mapping[str, Any]) -> str:
        checkpoint = read_checkpoint(file)
        formats = builtin_formats()
        given = [] if self.methods is None else builtin_methods().select(self.methods)
        _, kept = choose_classes(task_labels(task.name), how["classes"], task.name)
        parts = [
            str(checkpoint.path.absolute()),  # whose folders may contain the shots and the seed
            _hash_files(_list_inputs(checkpoint.path, formats)),
            _hash_files(formats.file_of(name) for name in formats.names()),
            [builtin_methods().identify(name) for name in given],
            [kept, how["classes"] == "all"],
            dict(how["settings"] or {}),
            *_identify_models(source),
            task.fingerprint(task.split("test")),
            [ENGINE_VERSION, compatbench.__version__],
        ]
        return sha256_json(parts)


def _identify_models(*names: str) -> list[Any]:
    cards = [read_backbone(name) for name in names]
    return [[card.name, weights_key(card), card.config] for card in cards]


def _list_inputs(path: Path, formats: FormatRegistry) -> list[Path]:
    """Return a checkpoint and the files beside it that an import in any format may read."""
    beside = set()
    for name in formats.names():
        beside.update(formats.get(name)().list_beside(path))
    return [path, *(other for other in beside - {path} if other.is_file())]


def _hash_files(paths: Iterable[Path]) -> list[tuple[str, str]]:
    return sorted((path.name, hash_file(path)) for path in paths)


def _pack(answers: Answers | None, side: str) -> dict[str, torch.Tensor]:
    """Return the answers on one model as named tensors."""
    if answers is None:
        return {}
    return {
        f"{side}.classes": answers.predictions.classes,
        f"{side}.confidence": answers.predictions.confidence,
        f"{side}.zero_shot.classes": answers.zero_shot.classes,
        f"{side}.zero_shot.confidence": answers.zero_shot.confidence,
        f"{side}.labels": torch.as_tensor(answers.targets),
    }


def _unpack(tensors: Mapping[str, torch.Tensor], side: str) -> Answers | None:
    """Return the answers on one model; None if it has none."""
    if f"{side}.labels" not in tensors:
        return None
    predictions = Predictions(tensors[f"{side}.classes"], tensors[f"{side}.confidence"])
    zero_shot = Predictions(
        tensors[f"{side}.zero_shot.classes"], tensors[f"{side}.zero_shot.confidence"]
    )
    return Answers(predictions, None, zero_shot, tensors[f"{side}.labels"])


def _listen(compute: Callable[[], Result]) -> tuple[Result, list[str]]:
    """Return a result and the warnings of compatbench that it raised; pass all warnings on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = compute()
    for each in caught:
        warnings.warn(each.message, stacklevel=3)
    ours = [each for each in caught if issubclass(each.category, CompatbenchWarning)]
    return result, [str(each.message) for each in ours]


def _repeat(warned: Iterable[str]) -> None:
    for text in warned:
        warnings.warn(text, CompatbenchWarning, stacklevel=3)
