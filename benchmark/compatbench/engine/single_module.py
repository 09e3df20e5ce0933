"""One module outside a run: fitted, and measured on another backbone. Does it survive there?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.words import WordFeatures, find_words
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import COPIED, TrainingCard, backbone_cards, suite_cards, task_cards
from compatbench.data.cards.shots import Shots, show_shots
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task, load_task, restrict_task
from compatbench.engine.carried import Carried
from compatbench.engine.keys import find_teacher
from compatbench.engine.measure import Measured, count_flips
from compatbench.engine.method_settings import read_settings
from compatbench.engine.plan import plan_cells
from compatbench.engine.store import RunStore, fit_description
from compatbench.engine.task_images import TaskImages
from compatbench.engine.worker import Worker, build_method
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.harmonic_mean import harmonic_mean
from compatbench.method import Method, Module, load_module
from compatbench.method.checkpoint_reader import is_archive
from compatbench.method.convert import import_checkpoint
from compatbench.method.registry import builtin_methods, builtin_transfers, find_transfer
from compatbench.method.transfer import Transfer


class Fitted(BaseModel):
    """What a module's file says of its fit; the rest is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str
    config: dict[str, Any]
    task: str
    source: str
    shots: Shots | None = None  # where it is known, of a module that was imported
    seed: int | None = None
    classes: tuple[int, ...] | None = None  # labels of those that it knows, if not all
    imported: dict[str, Any] | None = None  # from which file, and how
    ported: dict[str, Any] | None = None  # from which source, and with which transfer


def fit_module(
    method: str,
    task: str,
    source: str,
    shots: int,
    seed: int,
    config: dict[str, Any],
    views: int,
    device: str,
) -> Module:
    """Fits one module, as ``compatbench.fit`` says; its ``about`` is as in the modules of a run."""
    registry = builtin_methods()
    task, source = task_cards.resolve(task), backbone_cards.resolve(source)
    names = registry.select(method)
    if len(names) != 1:
        raise CompatbenchError(f"fit takes one method; '{method}' means {', '.join(names)}")
    changes = {
        "name": "fit",
        "upgrades": ((source,),),
        "tasks": (task,),
        "variants": (),
        "shots": (shots,),
        "seeds": (seed,),
        "methods": {names[0]: config},
        "training": read_settings(TrainingCard, {"views": views}, "fit"),
    }
    suite = suite_cards.read("mini").model_copy(update=changes)
    [cell] = plan_cells(suite, registry, names, shots=[shots], transfers=[COPIED])
    cache = FeatureCache(default_cache_folder())
    worker = Worker(RunStore(Path("runs")), cache, resolve_device(device))
    record, module = worker.fit(cell, build_method(cell))
    return Module(module.trained, module.stored, fit_description(record))


@dataclass(frozen=True, repr=False)
class Evaluation:
    """A module on the backbone it was fitted on, and on another."""

    fitted: Fitted
    backbone: str
    test_set: str  # the task, or a variant of it
    source: Measured | None  # None if the source is not here, and is not needed
    target: Measured | None  # None if the module cannot be attached there
    reason: str = ""  # why not
    transfer: str = COPIED  # how the module reached the target
    note: str = ""  # what the transfer says of its classifier, as the gate does of its decision
    precision: str = "fp32"  # what the frozen towers computed in

    def __repr__(self) -> str:
        upgrade = f"{self.fitted.source} → {self.backbone}, {self.transfer}"
        what = f"{self.fitted.method} on {self.test_set}, {upgrade}"
        return f"<Evaluation of {what}: {self.verdict}>"

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
        answers = self.source.predictions, self.target.predictions
        return 100 * count_flips(*answers, self.target.targets)[flips] / self.images

    @property
    def images(self) -> int:
        """Images of the test set."""
        measured = self.source or self.target
        return 0 if measured is None else len(measured.targets)

    @property
    def verdict(self) -> str:
        """``helps``, ``no help``, ``harms`` or ``not transferable``, by the gain on the target."""
        if self.target is None:
            return "not transferable"
        gain = self.target.gain
        return "helps" if gain > 0 else "no help" if gain == 0 else "harms"

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
            "note": self.note,
            "status": "ok" if self.target else "not transferable",
            "verdict": self.verdict,
            "reason": self.reason,
            "source": _describe(fitted.source, self.source),
            "target": _describe(self.backbone, self.target),
            "h": self.h,
            "negative_flips": self.negative_flips,
            "positive_flips": self.positive_flips,
        }


def _describe(backbone: str, found: Measured | None) -> dict[str, Any]:
    if found is None:
        return {"backbone": backbone}
    return {
        "backbone": backbone,
        "correct": int(found.right.sum()),
        "zero_shot_correct": int(found.zero_shot_right.sum()),
        "accuracy": found.accuracy,
        "gain": found.gain,
    }


def evaluate_module(
    given: Module | Path,
    backbone: str,
    test_set: str | Task | None = None,
    transfer: str = COPIED,
    methods: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> Evaluation:
    """Measures a module on a backbone and on its source, as ``compatbench.evaluate`` says.

    A ``test_set`` that is given as a task has the module's own classes, and images without labels.
    For the transfer ``words``, with the source's word features beside the module, the source
    itself need not be here.
    """
    device, cache = resolve_device(device), FeatureCache(default_cache_folder())
    backbone = backbone_cards.resolve(backbone)
    path = given if isinstance(given, Path) else Path("the module")
    module, fitted = read_fitted(given)
    method = build_method_of(fitted, methods, path)
    opened = isinstance(test_set, Task)
    task = test_set if isinstance(test_set, Task) else load_task(test_set or fitted.task)
    if fitted.task not in (task.name, task.parent):
        raise CompatbenchError(
            f"{path} was fitted for the task '{fitted.task}', whose classes are not those of "
            f"'{task.name}'; evaluate it on that, or on a variant of it"
        )
    owner = task if opened else load_task(fitted.task)
    if fitted.classes is not None and not opened:
        owner, task = (restrict_task(one, fitted.classes) for one in (owner, task))
    labels = owner.labels_for(method.card.needs)
    [transfer] = builtin_transfers().choose([transfer])
    way, words = find_transfer(transfer), None
    if transfer != COPIED and method.card.depth == "none":
        raise CompatbenchError(f"a module of '{fitted.method}' is the same whatever the transfer")
    way.require(method.card)
    if way.card.access == {"words"}:
        words = find_words(path, fitted.source)
    images = TaskImages(owner, TrainingCard(), fitted.seed or 0, cache)
    load = partial(load_backbone, device=device, precision=precision)
    target_backbone = load(backbone)
    source_backbone: Backbone | None = target_backbone
    if backbone != fitted.source:
        try:
            source_backbone = load(fitted.source)
        except CompatbenchError:
            if words is None:
                raise
            source_backbone = None

    def measure_on(on: Backbone, how: Transfer) -> tuple[Measured, str]:
        moved = module.to(on.device)
        name = find_teacher(method.card, fitted.config) if "labels" in how.card.access else None
        teacher = None if name is None else load(name)
        carried = Carried(method, moved, source_backbone, on, labels, images, teacher)
        given = carried.data(how, WordFeatures(cache.folder.parent), words)
        attached = carried.attach(how, given)
        return attached.measure(task), getattr(attached.classifier, "note", "")

    source = target = None
    reason = note = ""
    try:
        if source_backbone is not None:
            source, _ = measure_on(source_backbone, find_transfer(COPIED))
    except NotTransferable as why:
        raise CompatbenchError(
            f"{path} does not fit its own source '{fitted.source}' and task '{fitted.task}' as "
            f"they are now: {why.reason}"
        ) from None
    try:
        target, note = measure_on(
            target_backbone, way if backbone != fitted.source else find_transfer(COPIED)
        )
    except NotTransferable as why:
        reason = why.reason
    how = {"transfer": transfer, "note": note, "precision": precision}
    return Evaluation(fitted, backbone, task.name, source, target, reason, **how)


def import_for(given: Module | Path, test_set: str | None, source: str, *how: Any) -> Module:
    """A checkpoint of other code, imported for a test set; ``how`` it is, as for ``import_module``.

    The test set is the task that it was trained for, or a variant of it.
    """
    if not isinstance(given, Path) or test_set is None:
        lacking = "a task, too" if isinstance(given, Path) else "the file of one, not a module"
        raise CompatbenchError(
            f"a source is for a checkpoint of other code: give {lacking}, or leave the source out"
        )
    kind, settings, classes, device = how
    task = task_cards.read(test_set).parent or test_set
    place = resolve_device(device)
    return import_checkpoint(kind, given, task, source, settings or {}, classes, place)


def read_module(given: Module | Path) -> Module:
    """A module, or that of a file."""
    other = "a checkpoint of other code needs --source and --task, see 'compatbench import --help'"
    if isinstance(given, Path) and given.is_dir():
        raise CompatbenchError(
            f"{given} is a folder; give a module's file, *.safetensors, in it; {other}"
        )
    if isinstance(given, Path) and is_archive(given):
        raise CompatbenchError(f"{given} is not a module of compatbench; {other}")
    return load_module(given) if isinstance(given, Path) else given


def read_fitted(given: Module | Path) -> tuple[Module, Fitted]:
    """A module, or that of a file, and what it says of its fit."""
    module = read_module(given)
    try:
        return module, Fitted.model_validate(module.about)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise CompatbenchError(
            f"{given} does not say how it was fitted ('{field}'); give a module that 'run' wrote"
        ) from None


def build_method_of(fitted: Fitted, methods: str | None, path: Path) -> Method:
    """The method of a module in ``path``, which may be in the file ``methods``."""
    registry, name = builtin_methods(), fitted.method
    if methods is not None:
        registry.select(methods)
    if name not in registry.classes and name not in registry.broken:
        raise CompatbenchError(
            f"{path} is a module of the method '{name}', which is not here; give its file: "
            f"--methods ./{name}.py"
        )
    cls = registry.get(name)
    return cls(read_settings(cls.Config, fitted.config, f"'{name}', with which {path} was fitted"))
