"""One module outside a run: fitted, imported, or read from a file that describes its fit."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.backbone.device import resolve_device
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import (
    COPIED,
    SuiteCard,
    TrainingCard,
    backbone_cards,
    select_names,
    suite_cards,
    task_cards,
)
from compatbench.data.cards.shots import Shots, show_shots
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.labels import Labels
from compatbench.data.task import Task, load_task, restrict_task
from compatbench.engine.method_settings import name_configs
from compatbench.engine.plan import plan_cells
from compatbench.engine.request import make_request
from compatbench.engine.store import RunStore, fit_description
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.method import Method, Module, load_module, read_settings
from compatbench.method.convert import read_module
from compatbench.method.registry import builtin_methods

Names = Sequence[str]


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
    labels: Labels | None = None  # of the classes that it knows; None in a file of old
    imported: dict[str, Any] | None = None  # from which file, and how
    ported: dict[str, Any] | None = None  # from which source, and with which transfer


def fit(
    method: str,
    task: str,
    source: str,
    *,
    shots: int = 16,
    seed: int = 1,
    config: Mapping[str, object] | None = None,
    views: int | None = None,
    suite: str | SuiteCard | None = None,
    device: str = "auto",
) -> Module:
    """Fits one module; nothing is stored but image features in the cache.

    Args:
        method: a name (see ``list methods``), or the path of a method file.
        task, source: names of a task and a backbone, or MODEL/TAG of open_clip.
        shots: images of every class.
        config: settings that differ from the method's published recipe, or from the suite's.
        views: augmented views of each training image; 1 is the plain view alone. By default the
            suite's; without a suite 1.
        suite: the suite whose settings and training it takes, so that the module is the one that
            ``run`` fits there; without it, the published recipe is run.

    Returns:
        The module, which knows how it was fitted (``module.about``) and can be given to
        ``evaluate``, or written with ``module.save(path)``.

    Raises:
        CompatbenchError: an unknown name, a wrong setting, or missing images or weights.
    """
    registry = builtin_methods()
    task, source = task_cards.resolve(task), backbone_cards.resolve(source)
    card = None if suite is None else suite_cards.read(suite)
    names = registry.select(method, card.configs if card else ())
    if len(names) != 1:
        raise CompatbenchError(f"fit takes one method; '{method}' means {', '.join(names)}")
    configs = name_configs(names, config) if config else {}
    training = card.training if card else TrainingCard()
    if views is not None or card is None:
        values = training.model_dump(exclude_defaults=True) | {"views": views or 1}
        training = read_settings(TrainingCard, values, "fit")
    changes = {
        "name": "fit",
        "upgrades": ((source,),),
        "tasks": (task,),
        "variants": (),
        "shots": (shots,),
        "seeds": (seed,),
        "methods": (card.methods if card else {}) | configs,
        "training": training,
    }
    alone = (card or suite_cards.read("mini")).model_copy(update=changes)
    request = make_request(
        alone,
        list(configs) or names,
        shots=[shots],
        seeds=[seed],
        transfers=[COPIED],
        registry=registry,
    )
    [cell] = plan_cells(request)
    cache = FeatureCache(default_cache_folder())
    worker = Worker(RunStore(Path("runs")), cache, resolve_device(device))
    record, module = worker.fit(cell)
    return Module(module.trained, module.stored, module.about | fit_description(record))


def read_fitted(source: Module | Path) -> tuple[Module, Fitted]:
    """A module, or that of a file, and what it says of its fit."""
    module = read_module(source)
    try:
        return module, Fitted.model_validate(module.about)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise CompatbenchError(
            f"{source} does not say how it was fitted ('{field}'); give a module that 'run' wrote"
        ) from None


def match_task(path: Path, fitted: Fitted, task: Task) -> tuple[Task, Task]:
    """The module's task, and a task or variant, with its classes in its order, and its templates.

    Classes are found by their names. A file of old does not have them: it is then taken to be of
    the task that it names, whose classes have kept their order.

    Raises:
        CompatbenchError: the task has other classes.
    """
    owner = task if task.parent is None else load_task(task.parent)
    there, kept = owner.labels.names, fitted.classes
    if fitted.labels is None:
        if fitted.task != owner.name:
            raise CompatbenchError(
                f"{path} was fitted for the task '{fitted.task}', whose classes are not those of "
                f"'{task.name}'; evaluate it on that, or on a variant of it"
            )
        _note(f"{path}, as files of old, does not name its classes; '{owner.name}' gives them")
        labels = owner.labels
    else:
        labels, known = fitted.labels, fitted.labels.names
        kept = _find_names(path, fitted, known, owner)
        if labels.templates != owner.labels.templates:
            template = labels.templates[0]
            _note(f"'{owner.name}' has other templates than the module's '{template}', which stay")
    if kept is None or (labels == owner.labels and kept == (*range(len(there)),)):
        return owner, task

    def match(each: Task) -> Task:
        matched = restrict_task(each, kept)
        matched.labels = replace(labels, names=matched.labels.names)
        return matched

    matched = match(owner)
    return matched, matched if task is owner else match(task)


def _find_names(path: Path, fitted: Fitted, known: Names, owner: Task) -> tuple[int, ...]:
    """The labels of names in a task, which may share some; errors are those of ``match_task``."""
    there = owner.labels.names
    lacking = Counter(known) - Counter(there)
    unknown = Counter(there) - Counter(known) if fitted.classes is None else Counter[str]()
    if lacking or unknown:
        differences = [
            f"{what} {', '.join(map(repr, [*names][:4]))}{' and others' * (len(names) > 4)}"
            for what, names in (("lacks", lacking), ("also has", unknown))
            if names
        ]
        raise CompatbenchError(
            f"{path} was fitted for the {len(known)} classes of '{fitted.task}', and now "
            f"'{owner.name}' {' and '.join(differences)}: give a task with its classes"
        )
    places = {name: [i for i, other in enumerate(there) if other == name] for name in known}
    return tuple(places[name].pop(0) for name in known)


def _note(text: str) -> None:
    warnings.warn(text, CompatbenchWarning, stacklevel=4)


def find_labels(path: Path, fitted: Fitted, needs: Collection[str]) -> Labels:
    """The labels of a module, whose task need not be here unless it needs descriptions.

    Raises:
        CompatbenchError: as ``match_task``.
    """
    if fitted.labels is not None and "descriptions" not in needs:
        return fitted.labels
    owner, _ = match_task(path, fitted, load_task(fitted.task))
    return owner.labels_for(needs)


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


def modules(methods: str | Sequence[str] = "all", out: str | Path = ".") -> pd.DataFrame:
    """The modules in ``runs/``: method, task, source, shots, seed, file.

    Raises:
        CompatbenchError: no module of a method, or a damaged file.
    """
    folder = Path(out) / "runs" / "modules"
    rows = []
    for path in sorted(folder.glob("*/*.safetensors")):
        fitted = Fitted.model_validate(load_module(path).about)
        shots = None if fitted.shots is None else show_shots(fitted.shots)
        draw = (shots, fitted.seed)
        rows.append((fitted.method, fitted.task, fitted.source, *draw, str(path)))
    if not rows:
        raise CompatbenchError(f"{folder} holds no modules; run a suite first")
    chosen = select_names(methods, sorted({row[0] for row in rows}), "method with a module")
    rows = sorted((row for row in rows if row[0] in chosen), key=str)  # shots may be unknown
    return pd.DataFrame(rows, columns=["method", "task", "source", "shots", "seed", "file"])
