"""Advice from your own images and a module: a folder, a file, and the names of two models."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from compatbench.data.cards import COPIED, backbone_cards, suite_cards, task_cards
from compatbench.data.dataset_folders import variable_of
from compatbench.data.images.source import SPLITS
from compatbench.data.layouts.recognise import scan
from compatbench.data.new_task import name_task, new_task
from compatbench.data.task import Task, load_task
from compatbench.engine.single_module import read_fitted
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.project_folders import add_own_place
from compatbench.method import Module
from compatbench.method.convert import import_module
from compatbench.method.hub import local_file
from compatbench.results.choice import judge_effect
from compatbench.results.evaluation import Evaluation, settle_module

CHECKS = (
    "the order of the classes (compatbench module import --class-names FILE), how its features are "
    "normalised, its prompt, and the model that it was trained on (source)"
)


def are_images(place: object) -> bool:
    """Return True for a folder or file of images, or a task, and not for a suite."""
    if not isinstance(place, str | Path) or str(place) in suite_cards.names():
        return False
    path = Path(place).expanduser()
    if path.exists():
        return path.suffix not in (".yaml", ".yml")
    return str(place) in task_cards.names()


def open_images(place: str | Path, source: str, targets: Sequence[str], out: Path) -> Task:
    """Return the task of a folder, a file or a name, with the images that a module is tested on.

    These are all images, unless the data have a test split of their own. The cards of a new task
    are written to ``out``; if they are there, they are used as they are.
    """
    path = Path(place).expanduser().absolute()
    if not path.exists():
        return load_task(str(place))
    name = name_task(None, path)
    card = out.expanduser().absolute() / f"{name}.yaml"
    if card.exists():
        add_own_place(card.parent)
        _point_to(name, card, path)
        _warn(f"{card} is used as it is; remove it to read {path} again")
    else:
        new_task(path, source=source, target=list(targets), out=out)
    task = load_task(name)
    splits = set(scan(path, card.with_suffix(".csv")).frame["split"])
    return task if "test" in splits or "val" in splits else _test_all(task)


def _point_to(name: str, card: Path, images: Path) -> None:
    """Let a task find its images again where they are not below its card."""
    folder = Path(os.path.realpath(images if images.is_dir() else images.parent))
    if not folder.is_relative_to(os.path.realpath(card.parent)):
        os.environ[variable_of(name)] = str(folder)


def _test_all(task: Task) -> Task:
    """Return the task with all its images as test images: nothing is trained on any of them."""
    source = copy.copy(task.source)
    samples = [sample for split in SPLITS for sample in task.source.samples[split]]
    source.samples = {"train": (), "val": (), "test": samples}
    counts = {"test": len(samples)}
    card = task.card.model_copy(update={"counts": counts, "least_per_class": {}})
    return Task(card, task.labels, source)


def read_modules(
    modules: Sequence[Module | str | Path], task: Task, source: str | None, device: str
) -> dict[str, Module]:
    """Return modules by name. Checkpoints of other code are imported, with their format detected.

    Settings that a checkpoint does not contain are chosen on the images.

    Raises:
        CompatbenchError: a checkpoint without a source, or modules of several sources.
    """
    read: dict[str, Module] = {}
    sources = set()
    for module in modules:
        loaded = _read_module(module, task, source, device)
        _, fitted = read_fitted(loaded)
        sources.add(fitted.source)
        name = fitted.method
        if name in read and not isinstance(module, Module):
            name = f"{fitted.method}-{Path(module).stem}"
        if name in read:
            name = f"{fitted.method}-{len(read) + 1}"
        read[name] = loaded
    if len(sources) > 1:
        raise CompatbenchError(
            f"the modules were fitted on several models, {', '.join(sorted(sources))}; ask for each"
        )
    if source is not None and sources != {backbone_cards.resolve(source)}:
        raise CompatbenchError(
            f"the module was fitted on '{min(sources)}', not on the source '{source}'; leave the "
            "source out"
        )
    return read


def _read_module(
    module: Module | str | Path, task: Task, source: str | None, device: str
) -> Module:
    address = local_file(module)
    try:
        return read_fitted(address)[0]
    except CompatbenchError:
        if isinstance(address, Module):
            raise
    if source is None:
        raise CompatbenchError(
            f"{module} is no module of compatbench; if it is a checkpoint of other code, give the "
            "model that it was trained on: source (--source)"
        )
    source = backbone_cards.resolve(source)
    imported = import_module("auto", address, task.name, source, device=device)
    return settle_module(imported, task, device)


def check_modules(measured: Sequence[tuple[str, Evaluation]]) -> None:
    """Check that modules work on the old model, and warn of one that is not shown to.

    Raises:
        CompatbenchError: a module is significantly worse than zero-shot there.
    """
    for name, evaluation in measured:
        effect = evaluation.source_effect
        if evaluation.transfer != COPIED or effect is None or judge_effect(effect) == "gains":
            continue
        where = f"on its own model '{evaluation.fitted.source}'"
        if judge_effect(effect) == "loses":
            raise CompatbenchError(
                f"{name} is significantly worse than zero-shot {where} ({effect.value:+.1f} "
                f"points, {effect.low:+.1f} to {effect.high:+.1f}): this does not look like a "
                f"module for these classes or this model. Check {CHECKS}."
            )
        _warn(f"{name} is not shown to be better than zero-shot {where}. Check {CHECKS}.")


def _warn(text: str) -> None:
    warnings.warn(text, CompatbenchWarning, stacklevel=4)
