"""Single modules, outside a run: fit one, read one from its file, match it to a task."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import Progress

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
from compatbench.data.labels import Labels, fold_name
from compatbench.data.live_task import StoredTask
from compatbench.data.new_task import NewTask
from compatbench.data.task import Task, load_task, restrict_task
from compatbench.engine.method_settings import name_configs
from compatbench.engine.plan import plan_cells
from compatbench.engine.request import CLASSES, make_request
from compatbench.engine.store import RunStore, fit_description
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.messages import can_show_bar
from compatbench.method import Method, Module, load_module, read_settings
from compatbench.method.convert import read_module
from compatbench.method.live_class import write_classes
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import watch_steps

COLUMNS = ("method", "task", "source", "shots", "seed", "file")
DEFAULT_SHOTS = 16
SHOWN_NAMES = 4  # classes in an error


class Fitted(BaseModel):
    """A module file's description of the fit; other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str
    config: dict[str, Any]
    task: str
    source: str
    shots: Shots | None = None  # None if not known, of a module that was imported
    seed: int | None = None
    classes: tuple[int, ...] | None = None  # numbers of the classes that it knows; None means all
    labels: Labels | None = None  # of the classes that it knows; None in a file of old
    imported: dict[str, Any] | None = None  # the file and format that it was imported from
    ported: dict[str, Any] | None = None  # the source and the transfer that it was ported from


def fit(
    method: str | type,
    task: str | os.PathLike[str],
    source: str,
    *,
    shots: int | None = None,
    seed: int = 1,
    config: Mapping[str, object] | None = None,
    views: int | None = None,
    suite: str | SuiteCard | None = None,
    device: str = "auto",
) -> Module:
    """Fit one module, and store nothing but image features in the cache.

    A terminal or a notebook shows the steps of training as a bar.

    Args:
        method: a name (see ``list methods``), the path of a method file, or a class that a
            notebook or a script defines; its source is kept in the cache.
        task, source: names of a task and a backbone, or MODEL/TAG of open_clip; or what ``task``,
            ``new_task`` and ``as_backbone`` return.
        shots: images of every class; by default those of what ``task`` or ``new_task`` returned,
            or the most that the suite has; otherwise 16.
        config: settings that differ from the method's published recipe, or from the suite's.
        views: augmented views of each training image; 1 is the plain view alone. By default the
            suite's; without a suite 1.
        suite: the suite whose settings and training it takes, so that the module is the one that
            ``run`` fits there; without it, the published recipe is run.

    Returns:
        The module, which describes its fit (``module.about``). Give it to ``evaluate``, or write
        it with ``module.save(path)``.

    Raises:
        CompatbenchError: an unknown name, a wrong setting, or missing images or weights.
    """
    registry = builtin_methods()
    [selection] = write_classes([method], default_cache_folder() / CLASSES.name)
    made = task.made if isinstance(task, StoredTask) else task
    if shots is None and isinstance(made, NewTask):
        shots = made.shots
    task = task_cards.resolve(task)
    source = backbone_cards.resolve(source)
    if suite is None:
        # Any suite will do: all that it says of methods and training is replaced.
        card = suite_cards.read("mini")
        card = card.model_copy(update={"methods": {}, "training": TrainingCard()})
        views = views or 1
    else:
        card = suite_cards.read(suite)
        if shots is None:
            shots = max(card.shots)
    if shots is None:
        shots = DEFAULT_SHOTS
    names = registry.select(selection, card.configs)
    if len(names) != 1:
        raise CompatbenchError(f"fit takes one method; '{selection}' means {', '.join(names)}")
    configs = name_configs(names, config) if config else {}
    training = card.training
    if views is not None:
        values = training.model_dump(exclude_defaults=True) | {"views": views or 1}
        training = read_settings(TrainingCard, values, "fit")
    # A suite of the one cell.
    changes = {
        "name": "fit",
        "upgrades": ((source,),),
        "tasks": (task,),
        "variants": (),
        "shots": (shots,),
        "seeds": (seed,),
        "methods": card.methods | configs,
        "training": training,
    }
    request = make_request(
        card.model_copy(update=changes),
        list(configs) or names,
        shots=[shots],
        seeds=[seed],
        transfers=[COPIED],
    )
    [cell] = plan_cells(request)
    cache = FeatureCache(default_cache_folder())
    worker = Worker(RunStore(Path("runs")), cache, resolve_device(device))
    with _show_steps(f"fitting {cell.method} on {cell.task}"):
        record, module = worker.fit(cell)
    return Module(module.trained, module.stored, module.about | fit_description(record))


@contextmanager
def _show_steps(what: str) -> Iterator[None]:
    """Show the steps of a fit as a bar, on a terminal and in a notebook; nothing elsewhere."""
    console = Console(stderr=True)
    if not can_show_bar(console):
        yield
        return
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(what, total=None)

        def show(done: int, steps: int) -> None:
            progress.update(bar, completed=done, total=steps)

        with watch_steps(show):
            yield


def read_fitted(source: Module | Path) -> tuple[Module, Fitted]:
    """Return a module, or the module in a file, and its description of the fit."""
    module = read_module(source)
    try:
        return module, Fitted.model_validate(module.about)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise CompatbenchError(
            f"{source} does not say how it was fitted ('{field}'); give a module that 'run' wrote"
        ) from None


def match_task(path: Path, fitted: Fitted, task: Task) -> tuple[Task, Task]:
    """Return the module's task, and a task or variant, with the module's classes and templates.

    Both have the classes in the module's order. Classes are found by their names. A file of old
    does not have them: then the task that it names must be this one, and its classes have kept
    their order.

    Raises:
        CompatbenchError: the task has other classes.
    """
    owner = task if task.parent is None else load_task(task.parent)
    if fitted.labels is None:
        if fitted.task != owner.name:
            raise CompatbenchError(
                f"{path} was fitted for the task '{fitted.task}', whose classes are not those of "
                f"'{task.name}'; evaluate it on that, or on a variant of it"
            )
        _note(
            f"{path} was written by a version before 0.3 and does not store its class names; "
            f"compatbench takes those of '{owner.name}'"
        )
        labels = owner.labels
        kept = fitted.classes
    else:
        labels = fitted.labels
        kept = _find_classes(path, fitted, labels.names, owner)
        if labels.templates != owner.labels.templates:
            template = labels.templates[0]
            _note(f"'{owner.name}' has other templates than the module's '{template}', which stay")
    all_classes = tuple(range(len(owner.labels.names)))
    if kept is None or (labels == owner.labels and kept == all_classes):
        return owner, task

    def match(each: Task) -> Task:
        matched = restrict_task(each, kept)
        matched.labels = replace(labels, names=matched.labels.names)
        return matched

    matched = match(owner)
    if task is owner:
        return matched, matched
    return matched, match(task)


def _find_classes(path: Path, fitted: Fitted, known: Sequence[str], owner: Task) -> tuple[int, ...]:
    """Return the numbers of the known classes in a task; errors are those of ``match_task``.

    Several classes of a task may have one name.
    """
    names = owner.labels.names
    if set(known) - set(names):
        folded = [fold_name(name) for name in names]
        if len(set(folded)) == len(set(names)):  # else two classes differ in nothing else
            given = dict(zip(folded, names, strict=True))
            known = [given.get(fold_name(name), name) for name in known]
    lacking = Counter(known) - Counter(names)
    unknown = Counter[str]()
    if fitted.classes is None:
        unknown = Counter(names) - Counter(known)
    differences = []
    if lacking:
        differences.append(f"lacks {_quote_some(lacking)}")
    if unknown:
        differences.append(f"also has {_quote_some(unknown)}")
    if differences:
        raise CompatbenchError(
            f"{path} was fitted for the {len(known)} classes of '{fitted.task}', and now "
            f"'{owner.name}' {' and '.join(differences)}: give a task with its classes"
        )
    numbers: dict[str, list[int]] = {name: [] for name in known}
    for number, name in enumerate(names):
        if name in numbers:
            numbers[name].append(number)
    return tuple(numbers[name].pop(0) for name in known)


def _quote_some(names: Collection[str]) -> str:
    """Return the first names in quotes, and that there are others."""
    shown = ", ".join(repr(name) for name in list(names)[:SHOWN_NAMES])
    return f"{shown} and others" if len(names) > SHOWN_NAMES else shown


def _note(text: str) -> None:
    warnings.warn(text, CompatbenchWarning, stacklevel=4)


def find_labels(path: Path, fitted: Fitted, needs: Collection[str]) -> Labels:
    """Return the labels of a module, whose task need not be here unless it needs descriptions.

    Raises:
        CompatbenchError: as ``match_task``.
    """
    if fitted.labels is not None and "descriptions" not in needs:
        return fitted.labels
    owner, _ = match_task(path, fitted, load_task(fitted.task))
    return owner.labels_for(needs)


def build_method_of(fitted: Fitted, methods: str | None, path: Path) -> Method:
    """Return the method of a module in ``path``; the file ``methods`` may define it."""
    registry = builtin_methods()
    name = fitted.method
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
    """Return the modules in ``runs/``: method, task, source, shots, seed, file.

    Raises:
        CompatbenchError: no module of a method, or a damaged file.
    """
    folder = Path(out) / "runs" / "modules"
    rows = []
    for path in sorted(folder.glob("*/*.safetensors")):
        fitted = Fitted.model_validate(load_module(path).about)
        shots = None if fitted.shots is None else show_shots(fitted.shots)
        rows.append(
            {
                "method": fitted.method,
                "task": fitted.task,
                "source": fitted.source,
                "shots": shots,
                "seed": fitted.seed,
                "file": str(path),
            }
        )
    if not rows:
        raise CompatbenchError(f"{folder} holds no modules; run a suite first")
    names = sorted({row["method"] for row in rows})
    chosen = select_names(methods, names, "method with a module")
    selected = [row for row in rows if row["method"] in chosen]
    selected.sort(key=lambda row: str(tuple(row.values())))  # as text: shots may be unknown
    return pd.DataFrame(selected, columns=list(COLUMNS))
