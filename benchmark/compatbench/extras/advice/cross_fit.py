"""Train modules on one half of the images and test them on the other, so that all are tested."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compatbench.data.cards import COPIED, SuiteCard, suite_cards
from compatbench.data.draws import load_test_set
from compatbench.data.new_task import is_miniature
from compatbench.data.task import Task
from compatbench.engine.compute import Compute
from compatbench.engine.execute.run_plan import run_plan
from compatbench.engine.plan import Plan, make_plan
from compatbench.engine.request import make_request
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.method import Module
from compatbench.method.predictions import Predictions
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.results.estimate import Array
from compatbench.results.upgrade_rows import NOT_TRANSFERABLE
from compatbench.runs.progress import show_progress

# Cheap methods whose modules tend to survive: in suite 'mini' each takes 0.1 s to train, and its
# modules are among the best that are copied to the first target, or lose little on the second.
CHEAP_METHODS = ("proker", "ape", "tip_adapter")
SEEDS = (1, 2, 3)
OWN = "+own"  # ends the name of a method with a module's own settings


@dataclass(frozen=True)
class CrossFit:
    """What was measured of modules that were trained here.

    Attributes:
        right: 1 where an image is classified correctly, ``[seeds, images]``, by method, transfer
            and backbone.
        refused: why modules cannot be attached, likewise.
        changed: the largest share of a test set, in percent, on which a module does not predict
            zero-shot's class, likewise.
        zero_shot: the answers of zero-shot, ``[1, images]``, by backbone.
        modules: the file of one module of each method, by method and source.
    """

    right: dict[tuple[str, str, str], Array] = field(default_factory=dict)
    refused: dict[tuple[str, str, str], str] = field(default_factory=dict)
    changed: dict[tuple[str, str, str], float] = field(default_factory=dict)
    zero_shot: dict[str, Array] = field(default_factory=dict)
    modules: dict[tuple[str, str], Path] = field(default_factory=dict)

    def options(self) -> list[tuple[str, str]]:
        """Return the methods with their transfers, each once."""
        every = [*self.right, *self.refused]
        return list(dict.fromkeys((method, transfer) for method, transfer, _ in every))


def default_shots(task: str, source: str) -> int:
    """Return the images per class that a method is trained on, unless labels are given."""
    return max(read_suite(task, source).shots)


def own_settings(module: Module) -> dict[str, Any]:
    """Return the settings with which a module was made, as far as its file contains them."""
    config: dict[str, Any] = module.about["config"]
    imported = module.about.get("imported")
    if imported is None:
        return dict(config)
    return {name: config[name] for name in imported.get("recorded", ())}


def cross_fit(
    halves: Sequence[str],
    tested: Task,
    methods: Sequence[str],
    upgrades: Sequence[tuple[str, ...]],
    shots: int,
    *,
    suite: SuiteCard,
    out: Path,
    device: str = "auto",
    progress: bool = True,
    transfers: Sequence[str] = (COPIED,),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> CrossFit:
    """Train modules of methods on the source of each upgrade, and test them on all its models.

    A cell trains on up to ``shots`` images per class of one half, with one of three seeds, and is
    tested on the other half. Finished cells are in the store in ``out`` and are not run again.

    Args:
        halves: names of the tasks, one for each half.
        tested: the task with all images as test images, in the order of the answers.
        methods: names of methods.
        upgrades: a source with a target; or one model alone, on which modules are then retrained.
        shots: images per class.
        suite: the suite whose settings are taken.
        settings: of a method, those that replace the suite's.
    """
    configs = {}
    for name, changes in (settings or {}).items():
        configs[f"{name}{OWN}"] = {"method": name, **changes}
    changes = {
        "name": f"{halves[0]}-advice",
        "upgrades": tuple(upgrades),
        "tasks": tuple(halves),
        "variants": (),
        "shots": (shots,),
        "seeds": SEEDS,
        "run_seeds": (),
        "retrained": False,
        "publish": False,
        "methods": suite.methods | configs,
    }
    card = suite.model_copy(update=changes)
    found = CrossFit()
    for transfer in transfers:
        served = [name for name in methods if serves(transfer, name)]
        if not served:
            continue
        served = [f"{name}{OWN}" if f"{name}{OWN}" in configs else name for name in served]
        request = make_request(
            card, served, shots=[shots], seeds=SEEDS, transfers=[transfer], out=out
        )
        plan = make_plan(request)
        with show_progress(progress, None, lambda plan, jobs: None, lambda event: None) as shown:
            failures = run_plan(plan, Compute(device=device), *shown)
        for cell, error in failures[:1]:
            warnings.warn(f"{cell}: {error}", CompatbenchWarning, stacklevel=3)
        _read_answers(plan, tested, found)
    if not found.right and not found.refused:
        raise CompatbenchError(f"no module of {', '.join(methods)} could be trained")
    return found


def serves(transfer: str, method: str) -> bool:
    """Return True if a transfer changes anything for modules of a method, and is not 'copied'."""
    card = builtin_methods().get(method).card
    return transfer == COPIED or find_transfer(transfer).serves(card)


def read_suite(task: str, source: str) -> SuiteCard:
    """Return the suite whose settings are taken: of the task that was made, or the usual one.

    The miniatures and other models need different training, so a suite of the one kind is not used
    for the other.
    """
    made = f"{task}-upgrade"
    is_mini = is_miniature(source)
    if made in suite_cards.names():
        suite = suite_cards.read(made)
        if is_miniature(suite.upgrades[0][0]) == is_mini:
            return suite
    return suite_cards.read("mini" if is_mini else "paper")


def _read_answers(plan: Plan, tested: Task, found: CrossFit) -> None:
    """Add the answers of a plan's cells; an option that lacks any is left out."""
    samples = tested.split("test")
    place_of = {sample.id: place for place, sample in enumerate(samples)}
    answers: dict[tuple[str, str, str], Array] = {}
    zero_shot: dict[str, Array] = {}

    def mark(row: Array, test_set: str, predictions: Predictions) -> None:
        images = load_test_set(test_set).split("test")
        for sample, chosen in zip(images, predictions.classes.tolist(), strict=True):
            row[place_of[sample.id]] = float(chosen == sample.label)

    for cell in plan.cells:
        predictions = plan.store.read_predictions(cell.key)
        record = plan.store.read(cell.key)
        outcomes: Mapping[object, object] = {}
        if record is not None:
            outcomes = {outcome.where: outcome for outcome in record.records}
        path = plan.store.module_path(cell.fit_key)
        if path.is_file():
            found.modules.setdefault((cell.method, cell.source), path)
        for where in cell.places:
            backbone, test_set, _ = where
            option = (cell.method, cell.transfer, backbone)
            outcome = outcomes.get(where)
            if getattr(outcome, "status", "") == NOT_TRANSFERABLE:
                found.refused[option] = getattr(outcome, "reason", "")
            if where not in predictions:
                continue
            rows = answers.setdefault(option, np.full((len(SEEDS), len(samples)), np.nan))
            mark(rows[SEEDS.index(cell.seed)], test_set, predictions[where])
            without = plan.store.read_zero_shot(where, cell.training.precision)
            if without is not None:
                row = zero_shot.setdefault(backbone, np.full((1, len(samples)), np.nan))
                mark(row[0], test_set, without)
                share = _share_changed(predictions[where], without)
                found.changed[option] = max(found.changed.get(option, 0.0), share)
    for backbone, row in zero_shot.items():
        if not np.isnan(row).any():
            found.zero_shot[backbone] = row
    for option, rows in answers.items():
        if not np.isnan(rows).any():
            found.right[option] = rows


def _share_changed(predictions: Predictions, zero_shot: Predictions) -> float:
    """Return the share of images with another class than zero-shot's, in percent."""
    different = predictions.classes != zero_shot.classes
    return 100 * float(different.float().mean())
