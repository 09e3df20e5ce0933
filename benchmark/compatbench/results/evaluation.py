"""One module on another backbone: does it survive there?"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.words import WordFeatures, find_words
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import COPIED, TrainingCard, backbone_cards, task_cards
from compatbench.data.cards.shots import show_shots
from compatbench.data.dataset_folders import cards_option, images_option
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task, load_task
from compatbench.engine.attach import Carried
from compatbench.engine.keys import find_teacher
from compatbench.engine.port import TRANSFERS
from compatbench.engine.predict import predict_zero_shot
from compatbench.engine.single_module import Fitted, build_method_of, match_task, read_fitted
from compatbench.engine.task_images import TaskImages, hide_labels, label_tensor
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.harmonic_mean import harmonic_mean
from compatbench.method import Module, read_settings
from compatbench.method.convert import AUTO, import_module
from compatbench.method.hub import local_file
from compatbench.method.registry import builtin_transfers, find_transfer, find_useful_transfer
from compatbench.method.transfer import Transfer
from compatbench.results.choice import Decision, decide, judge_effect
from compatbench.results.differences import (
    OLD,
    ZERO_SHOT,
    Difference,
    compare_answers,
    compare_images,
)
from compatbench.results.estimate import Interval, interval_columns
from compatbench.results.measures import Answers, score
from compatbench.results.options import describe_option, option_name, options_frame
from compatbench.results.ranking import NULL
from compatbench.results.readings import settle_readings
from compatbench.results.verdict_lines import Case, python_call, suggest_method, verdict_lines

SMALL = 20_000_000  # parameters of a model that one thread serves best


@dataclass(frozen=True, repr=False)
class Evaluation:
    """A module on the backbone it was fitted on, and on another."""

    fitted: Fitted
    backbone: str
    test_set: str  # the task, or a variant of it
    source: Answers | None  # None if the source is not here, and is not needed
    target: Answers | None  # None if the module cannot be attached there
    reason: str = ""  # why not
    transfer: str = COPIED  # how the module reached the target
    precision: str = "fp32"  # what the frozen towers computed in
    file: str = ""  # of the module, if it came from one
    is_checkpoint: bool = False  # the file is one of other code
    methods: str | None = None  # the method's file
    format: str = AUTO  # of a checkpoint, and what else it was given with
    settings: Mapping[str, object] | None = None
    classes: str | Sequence[str] | None = None

    def __str__(self) -> str:
        """The verdict, the gain, and what to do next: what the command shows."""
        return "\n".join(verdict_lines(self._case, self._next_command()))

    def __repr__(self) -> str:
        upgrade = f"{self.fitted.source} → {self.backbone}, {self.transfer}"
        what = f"{self.fitted.method} on {self.test_set}, {upgrade}"
        return f"<Evaluation of {what}: {self.verdict}>"

    def _repr_html_(self) -> str:
        """Both backbones, as a notebook shows them."""
        table = self.frame.round(1).to_html(index=False, na_rep="")
        why = f"<p>{escape(self.reason)}</p>" if self.reason else ""
        return f"<p>{escape(repr(self))}</p>{table}{why}"

    @property
    def frame(self) -> pd.DataFrame:
        """The source and the target: accuracy and zero-shot in percent, gain in points."""
        answers = {self.fitted.source: self.source, self.backbone: self.target}
        columns = ["accuracy", "zero_shot_accuracy", "gain"]
        rows = [
            [name, *(getattr(each, column, None) for column in columns)]
            for name, each in answers.items()
        ]
        frame = pd.DataFrame(rows, columns=["backbone", "accuracy", "zero_shot", "gain"])
        return frame.astype(dict.fromkeys(frame.columns[1:], "float64"))

    @property
    def h(self) -> float | None:
        """The harmonic mean of both accuracies, in percent."""
        if self.source is None or self.target is None:
            return None
        return harmonic_mean(self.source.accuracy, self.target.accuracy)

    @property
    def negative_flips(self) -> float | None:
        """Share of images, in percent, that are right on the source and wrong on the target."""
        return self._share("negative_flips")

    @property
    def positive_flips(self) -> float | None:
        """Share of images, in percent, that are wrong on the source and right on the target."""
        return self._share("positive_flips")

    def _share(self, flips: str) -> float | None:
        if self.source is None or self.target is None:
            return None
        answers = replace(self.target, source=self.source.predictions)
        return 100 * float(score(answers)[flips] or 0) / self.images

    @property
    def changed(self) -> dict[str, float]:
        """Share of images, in percent, whose class is not zero-shot's, on each backbone."""
        shares = {}
        for name, answers in ((self.fitted.source, self.source), (self.backbone, self.target)):
            if answers is not None:
                shares[name] = float(score(answers)["changed"] or 0)
        return shares

    def right_images(self) -> dict[str, NDArray[np.bool_]]:
        """Return the images that each classifier gets right, ``[images]``.

        They are the module on the old model (``OLD``), zero-shot on the new one (``ZERO_SHOT``),
        and the module on the new one, under the name of the transfer.
        """
        right = {}
        if self.source is not None:
            right[OLD] = self.source.right(self.source.predictions)
        if self.target is not None:
            right[ZERO_SHOT] = self.target.right(self.target.zero_shot)
            right[self.transfer] = self.target.right(self.target.predictions)
        return right

    @property
    def images(self) -> int:
        """Images of the test set."""
        answers = self.source or self.target
        return 0 if answers is None else len(answers.targets)

    @cached_property
    def effect(self) -> Interval | None:
        """Return the gain over zero-shot on the target with its 95 % interval over images.

        Both classifiers answered the same images, so they are compared image by image.
        """
        return None if self.target is None else _gain_over_zero_shot(self.target)

    @cached_property
    def source_effect(self) -> Interval | None:
        """Return the same on the source, for which the module was trained."""
        return None if self.source is None else _gain_over_zero_shot(self.source)

    @property
    def verdict(self) -> str:
        """Return ``gains``, ``loses``, ``cannot tell`` or ``not transferable``.

        The module gains or loses if the whole interval of its gain on the target lies on that side
        of 0.
        """
        return "not transferable" if self.target is None else judge_effect(self.effect)

    @cached_property
    def decision(self) -> Decision:
        """Return what to do with the module, from this transfer alone."""
        name = option_name(self.fitted.method, self.transfer)
        refused = self.reason if self.target is None else None
        option = describe_option(self.fitted.method, self.transfer, refused)
        return decide(options_frame({name: option}), self._compare, alone=True)

    @cached_property
    def _compare(self) -> Difference:
        method = self.fitted.method
        names = {ZERO_SHOT: ZERO_SHOT, OLD: option_name(method, OLD)}
        right = {}
        for name, answers in self.right_images().items():
            right[names.get(name, option_name(method, name))] = answers.astype(float)[None]
        return compare_answers(right, np.zeros(self.images))

    @property
    def _case(self) -> Case:
        method = self.fitted.method
        return Case(
            decision=self.decision,
            difference=self._compare,
            upgrade=(self.fitted.source, self.backbone),
            module=method,
            transfer=self.transfer,
            old=option_name(method, OLD),
            units=(self.images, "test image"),
            refusal=self.reason,
            is_null=max(self.changed.values(), default=100.0) < NULL,
        )

    def _next_command(self) -> str:
        """Return the command that goes on from here."""
        task = self.fitted.task
        source = self.fitted.source
        cards = cards_option(task, source, self.backbone)
        if self._case.does_nothing:
            method = suggest_method(self.fitted.method)
            if not self.file:
                given = f"source='{source}', target='{self.backbone}', methods='{method}'"
                return f"cb.advise('{task}', {given})  # or use zero-shot"
            words = ["advise", task, "--source", source, "--target", self.backbone]
            words += ["--methods", method, *cards, *images_option(task)]
            return f"{shlex.join(['compatbench', *words])}  # or use zero-shot"
        if not self.file:
            return python_call(task, self.backbone)
        goes_on = self.verdict == "gains" and self.transfer in TRANSFERS
        how = self._given_words()
        if self.is_checkpoint and (goes_on or self.format != AUTO):  # 'advise' takes no format
            format = self.format
            if format == AUTO:
                format = (self.fitted.imported or {}).get("format", AUTO)
            words = ["module", "import", format, self.file, "--task", task]
        elif goes_on:
            words = ["module", "port", self.file, "--target", self.backbone]
            words += ["--transfer", self.transfer]
        else:
            words = ["advise", task, "--module", self.file, "--target", self.backbone]
            cards += images_option(task)
            how += ["--labels", "4"]
        return shlex.join(["compatbench", *words, *how, *cards])

    def _given_words(self) -> list[str]:
        """Return the options with which the module was given."""
        words = []
        if self.is_checkpoint:
            words += ["--source", self.fitted.source]
        for name, value in (self.settings or {}).items():
            words += ["--set", f"{name}={json.dumps(value)}"]
        if isinstance(self.classes, str):
            words += ["--class-names", self.classes]
        elif self.classes is not None:
            words += ["--class-names", "FILE"]  # their names are in memory
        if self.methods is not None:
            words += ["--methods", self.methods]
        return words

    def as_dict(self) -> dict[str, Any]:
        """JSON values; accuracies, gains and flips in percent of the images."""
        fitted = self.fitted
        return {
            "method": fitted.method,
            "task": fitted.task,
            "shots": fitted.shots and show_shots(fitted.shots),
            "seed": fitted.seed,
            "imported": fitted.imported,
            "ported": fitted.ported,
            "test_set": self.test_set,
            "images": self.images,
            "transfer": self.transfer,
            "precision": self.precision,
            "status": "ok" if self.target else "not transferable",
            "verdict": self.verdict,
            **interval_columns("gain", self.effect),
            "reason": self.reason,
            "source": _describe(fitted.source, self.source),
            "target": _describe(self.backbone, self.target),
            "h": self.h,
            "negative_flips": self.negative_flips,
            "positive_flips": self.positive_flips,
        }


@contextmanager
def _threads_for(backbone: Backbone) -> Iterator[None]:
    """Use one thread for a small model: others would spend most of their time on waiting."""
    before = torch.get_num_threads()
    size = sum(parameter.numel() for parameter in backbone.model.parameters())
    torch.set_num_threads(before if size > SMALL else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _gain_over_zero_shot(answers: Answers) -> Interval | None:
    """Return the gain over zero-shot, compared image by image."""
    right = {"module": answers.predictions, ZERO_SHOT: answers.zero_shot}
    scores = {name: 100.0 * answers.right(each) for name, each in right.items()}
    return compare_images(pd.DataFrame.from_dict(scores, "index"))("module", ZERO_SHOT)


def _describe(backbone: str, answers: Answers | None) -> dict[str, Any]:
    if answers is None:
        return {"backbone": backbone}
    counts = score(answers)
    return {
        "backbone": backbone,
        "correct": counts["correct"],
        "zero_shot_correct": counts["zero_shot_correct"],
        "accuracy": answers.accuracy,
        "gain": answers.gain,
    }


def evaluate(
    module: Module | str | Path,
    backbone: str,
    task: str | os.PathLike[str] | Task | None = None,
    *,
    transfer: str = "copied",
    methods: str | None = None,
    device: str = "auto",
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32",
    source: str | None = None,
    format: str = "auto",
    settings: Mapping[str, object] | None = None,
    classes: str | Sequence[str] | None = None,
) -> Evaluation:
    """Show whether a module survives a new model; nothing is trained.

    This measures its accuracy there and on its source, each next to zero-shot, and the share of
    images that were right before and are wrong now.

    Args:
        module: a module: its file, which ``run`` leaves in ``runs/modules/``, or
            ``hf://OWNER/NAME``, or what ``fit`` gives; with a source, a checkpoint of other code.
        backbone: the new model: a name (see ``list backbones``), or ``MODEL/TAG`` of open_clip,
            ``MODEL@FILE``, ``local-dir:FOLDER``, ``hf:FOLDER``.
        task: the test set: the module's task, which is the default, a variant of it, or another
            with the same class names, in any order.
        transfer: how the module reaches the new model (see ``list transfers``): ``copied``, or
            ``words``, which rotates the new model's embedding space by words alone. With the
            ``words-*.safetensors`` that ``run`` leaves beside its modules, ``words`` does not need
            the source model.
        methods: the method's file, if it is not among ``list methods``; it is run as code.
        precision: number format of the frozen towers, as for ``run``.
        source: of a checkpoint of other code: the model that it was trained on. The task is then
            the one that it was trained for, or a variant.
        format: of a checkpoint: its format, as for ``import_module``.
        settings: of a checkpoint: settings that it does not hold, such as ``alpha=1``.
        classes: of a checkpoint: the classes that it knows, as for ``import_module``.

    Returns:
        Accuracies, zero-shot, gain, H, flips and a verdict; ``as_dict()`` has them by name.

    Raises:
        CompatbenchError: a damaged module, an unknown name, or a task that the module was not
            fitted for.
    """
    device = resolve_device(device)
    cache = FeatureCache(default_cache_folder())
    address = local_file(module)
    file = "" if isinstance(module, Module) else str(module)
    backbone = _resolve_target(backbone)
    if source is not None:
        how = {"settings": settings, "classes": classes, "methods": methods, "device": device}
        address = _import_checkpoint(address, task, source, format, how)
    elif settings or classes or format != AUTO:
        raise CompatbenchError(
            "settings, classes and format are those of a checkpoint of other code: give the source "
            "that it was trained on, too, or leave them out"
        )
    path = address if isinstance(address, Path) else Path("the module")
    module, fitted = read_fitted(address)
    method = build_method_of(fitted, methods, path)
    test_set = task if isinstance(task, Task) else load_task(task or fitted.task)
    owner = test_set
    if fitted.labels is not None or not isinstance(task, Task):  # which has the module's classes
        owner, test_set = match_task(path, fitted, test_set)
    labels = owner.labels_for(method.card.needs)
    [transfer] = builtin_transfers().choose([transfer])
    words = None
    if transfer != COPIED and method.card.depth == "none":
        raise CompatbenchError(f"a module of '{fitted.method}' is the same whatever the transfer")
    transfer = find_useful_transfer(transfer, method.card)
    chosen = find_transfer(transfer)
    if chosen.card.access == {"words"}:
        words = find_words(path, fitted.source)
    images = TaskImages(hide_labels(owner), TrainingCard(), fitted.seed or 0, cache)
    load = partial(load_backbone, device=device, precision=precision)
    on_target = load(backbone)
    try:
        on_source = on_target if backbone == fitted.source else load(fitted.source)
    except CompatbenchError:
        if words is None:  # which stand for the source
            raise
        on_source = None
    copied = find_transfer(COPIED)
    if backbone == fitted.source:
        chosen = copied
    teacher = None
    if "labels" in chosen.card.access:
        teacher = find_teacher(method.card, fitted.config)
    carried = Carried(
        method,
        module.to(on_target.device),
        on_source,
        on_target,
        labels,
        images,
        teacher=None if teacher is None else load(teacher),
    )
    before = None
    if on_source is not None:

        def answer_with(config: Mapping[str, Any]) -> Answers:
            settings = read_settings(type(method).Config, config, f"'{fitted.method}'")
            reading = replace(carried, method=type(method)(settings), target=on_source)
            answers, refusal = _answer(reading, copied, test_set)
            if answers is None:
                raise CompatbenchError(f"{path} does not fit '{fitted.source}': {refusal}")
            return answers

        settled = settle_readings(fitted, answer_with)
        if settled is not fitted:
            fitted = settled
            carried = replace(carried, method=build_method_of(fitted, methods, path))
        before, refusal = _answer(replace(carried, target=on_source), copied, test_set)
        if refusal:
            raise CompatbenchError(
                f"{path} does not fit its own source '{fitted.source}' and task '{fitted.task}' as "
                f"they are now: {refusal}"
            )
    after, reason = _answer(carried, chosen, test_set, words)
    return Evaluation(
        fitted,
        backbone,
        test_set.name,
        before,
        after,
        reason,
        transfer,
        precision,
        file,
        is_checkpoint=source is not None,
        methods=methods,
        format=format,
        settings=settings,
        classes=classes,
    )


def _resolve_target(backbone: str) -> str:
    """Return the name of the new model; raise CompatbenchError for a list of several."""
    name = str(backbone)
    is_place = "@" in name or ":" in name or Path(name).exists()
    if "," in name and not is_place:
        raise CompatbenchError(
            f"'{name}': evaluate takes one target; for several: compatbench advise"
        )
    return backbone_cards.resolve(backbone)


def _import_checkpoint(
    checkpoint: object, task: object, source: str, format: str, how: Mapping[str, Any]
) -> Module:
    """Return the module of a checkpoint of other code; ``how`` has settings of ``import_module``.

    It is trained for the task, or for the one that the task is a variant of.
    """
    if not isinstance(checkpoint, Path) or not isinstance(task, str | os.PathLike):
        lacking = "a task, too" if isinstance(checkpoint, Path) else "the file of one, not a module"
        raise CompatbenchError(
            f"a source is for a checkpoint of other code: give {lacking}, or leave the source out"
        )
    task = task_cards.resolve(task)
    return import_module(format, checkpoint, task_cards.read(task).parent or task, source, **how)


def _answer(
    carried: Carried, how: Transfer, test_set: Task, words: Tensor | None = None
) -> tuple[Answers | None, str]:
    """Return a module's answers, or None and why it cannot be attached.

    ``words`` are the source's word features ``[V, e_s]``, if they are known.
    """
    cache = carried.images.cache
    unlabelled = hide_labels(test_set)
    try:
        with _threads_for(carried.target):
            more = carried.data(how, WordFeatures(cache.folder.parent), words)
            attached = carried.attach(how, more)
            zero_shot = predict_zero_shot(carried.target, unlabelled, cache)
            predictions = attached.predict(unlabelled)
    except NotTransferable as why:
        return None, why.reason
    answers = Answers(predictions, None, zero_shot, label_tensor(test_set.split("test")))
    return answers, ""


def settle_module(module: Module, task: str | Task, device: str = "auto") -> Module:
    """Return an imported module with those settings that fit the images of a task best.

    Only settings that its file does not contain are tried, such as the position of class names in
    prompts. A module without such settings is returned as it is.
    """
    imported = module.about.get("imported") or {}
    if not imported.get("undecided"):
        return module
    fitted = evaluate(module, str(module.about["source"]), task, device=device).fitted
    about = module.about | {"config": fitted.config, "imported": fitted.imported}
    return Module(module.trained, module.stored, about)
