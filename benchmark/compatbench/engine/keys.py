"""Keys: the hashes of everything that decides a number. They name cells, modules and records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

from compatbench.backbone.load import read_backbone, weights_key
from compatbench.backbone.words import words_hash
from compatbench.data.cards import COPIED, TrainingCard, suite_tasks, task_cards, whole_name
from compatbench.data.draws import Draw, draw_first, draw_shots, load_test_set
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.data.task import Task, load_task
from compatbench.engine.cell import Cell, Where
from compatbench.engine.matrix import Matrix, MethodChoice
from compatbench.engine.method_settings import Settings, resolve_settings
from compatbench.engine.missing import Missing
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json
from compatbench.method import Method, MethodCard
from compatbench.method.registry import describe_transfer, find_transfer


class InputHashes:
    """The hashes of images and weights, each computed once.

    Files and cards may change between two plans of one process, so each plan needs a new object.
    """

    def __init__(self) -> None:
        self.test_set = cache(_hash_test_set)
        self.unlabelled = cache(_hash_unlabelled)
        self.draw = cache(_hash_draw)
        self.weights = cache(_hash_weights)


def key_cells(
    matrix: Matrix, missing: Missing | None = None, hashes: InputHashes | None = None
) -> list[Cell]:
    """Return the cells with their keys, without missing targets, test sets or whole cells.

    Cells whose images are broken are included, marked as ``broken``. If only some test sets are
    broken, they are a cell of their own after the rest. Missing weights are fetched, unless they
    are in ``missing``.

    Args:
        hashes: what several calls for one plan share.
    """
    missing = Missing() if missing is None else missing
    hashes = hashes or InputHashes()
    key_fit = _fit_keys(matrix, hashes)

    # The same for many cells, and computed once.
    @cache
    def list_places(backbones: tuple[str, ...], test_sets: tuple[str, ...]) -> tuple[Where, ...]:
        pairs = product(backbones, test_sets)
        return tuple((name, test_set, data_key(name, test_set, hashes)) for name, test_set in pairs)

    cells = []
    for cell in matrix.cells:
        choice = matrix.choice(cell)
        lacking = [name for name in _fitted_tasks(matrix, cell) if name in missing.test_sets]
        if lacking:
            name = lacking[0]
            if name in missing.broken:
                cells.append(_mark_broken(cell, _explain_lack(cell, name, missing.test_sets[name])))
            continue
        teacher = find_teacher(choice.method.card, cell.config)
        if cell.source in missing.backbones or teacher in missing.backbones:
            continue
        backbones = tuple(name for name in cell.backbones if name not in missing.backbones)
        test_sets = tuple(name for name in cell.test_sets if name not in missing.test_sets)
        try:
            fit_key = key_fit(choice, cell)
            others = _list_others(matrix, replace(cell, backbones=backbones), key_fit)
            key = transfer_key(
                fit_key, choice.transfer, cell.task, cell.seed, cell.training, others, hashes
            )
        except BrokenImages as error:
            cells.append(_mark_broken(cell, str(error)))
            continue
        keyed = replace(cell, key=key, fit_key=fit_key, backbones=backbones, others=others)
        places = list_places(backbones, test_sets)
        cells.append(replace(keyed, test_sets=test_sets, places=places))
        for name in cell.test_sets:
            if name in missing.broken:
                cells.append(replace(keyed, test_sets=(name,), broken=missing.test_sets[name]))
    return cells


def _fit_keys(matrix: Matrix, hashes: InputHashes) -> Callable[[MethodChoice, Cell], str]:
    """Return a function that returns the key of a cell's fit."""

    # The same for many cells, and computed once.
    @cache
    def identify_method(choice: MethodChoice, task: str) -> tuple[str, dict[str, Any]]:
        config = _settings_of(matrix, choice, task).config
        identity = identify(choice.identity, choice.method.card, task, config, hashes)
        return identity, changed_settings(choice.method, config)

    def key_fit(choice: MethodChoice, cell: Cell) -> str:
        identity, changed = identify_method(choice, cell.task)
        draw = (cell.task, cell.shots, cell.seed)
        held_out_of = cell.held_out_of
        return module_key(identity, changed, cell.source, draw, cell.training, held_out_of, hashes)

    return key_fit


def _settings_of(matrix: Matrix, choice: MethodChoice, task: str) -> Settings:
    """Return a method's settings on a task of the suite, which may be outside the request."""
    if task in choice.settings:
        return choice.settings[task]
    return resolve_settings(choice.method, matrix.suite, choice.name, task)


def needs_modules(transfer: str) -> bool:
    """Return True if a transfer receives the modules of the suite's other tasks."""
    return transfer != COPIED and "modules" in find_transfer(transfer).card.access


def _fitted_tasks(matrix: Matrix, cell: Cell) -> list[str]:
    """Return the tasks whose modules a cell needs: its own, and then those of its ``others``."""
    if not needs_modules(cell.transfer):
        return [cell.task]
    return list(dict.fromkeys([cell.task, *suite_tasks(matrix.suite)]))


def _explain_lack(cell: Cell, task: str, why: str) -> str:
    """Return the reason why a cell lacks the module of a task."""
    if task == cell.task:
        return why
    return f"transfer '{cell.transfer}' needs modules of '{task}': {why}"


def _list_others(
    matrix: Matrix, cell: Cell, key_fit: Callable[[MethodChoice, Cell], str]
) -> tuple[Cell, ...]:
    """Return the fits of the suite's other tasks on every backbone of a cell, if it needs them.

    Raises:
        BrokenImages: the images of one cannot be used, or are not here.
    """
    choice = matrix.choice(cell)
    others = []
    for task in _fitted_tasks(matrix, cell)[1:]:
        settings = _settings_of(matrix, choice, task)
        for backbone in cell.backbones:
            other = replace(
                cell.copied,
                task=task,
                config=settings.config,
                training=settings.training,
                backbones=(backbone,),
                test_sets=(),
            )
            try:
                key = key_fit(choice, other)
            except CompatbenchError as error:
                raise BrokenImages(_explain_lack(cell, task, str(error))) from None
            others.append(replace(other, key=key, fit_key=key))
    return tuple(others)


def _mark_broken(cell: Cell, reason: str) -> Cell:
    """Return a cell that cannot be measured, with a key that no result has."""
    about = [cell.name, cell.task, cell.shots, cell.seed, cell.backbones, reason]
    key = sha256_json(["broken images", *about])
    return replace(cell, key=key, fit_key=key, broken=reason)


def module_key(
    method: str,
    changed: dict[str, Any],
    source: str,
    draw: tuple[str, int, int],
    training: TrainingCard,
    held_out_of: int | None = None,
    hashes: InputHashes | None = None,
) -> str:
    """Return the hash of everything that decides a module: the key of the copied cell.

    Defaults are in no key, so that a new setting changes none. The versions of method and engine
    stand for them.

    Args:
        method: the result of ``identify``.
        changed: the result of ``changed_settings``.
        draw: task, shots and seed.
        held_out_of: as for ``draw_shots``.
    """
    hashes = hashes or InputHashes()
    task, shots, seed = draw
    images = hashes.draw(draw_shots, task, shots, seed, training.val_shots, held_out_of)
    return sha256_json(
        {
            "engine": ENGINE_VERSION,
            "method": method,
            "config": changed,
            "data": sha256_json([*hashes.weights(source), *images]),
            "shots": shots,
            "seed": seed,
            # The cap on steps is in the config of the methods that it reaches.
            "training": describe_training(training),
        }
    )


def transfer_key(
    module: str,
    transfer: str,
    task: str,
    seed: int,
    training: TrainingCard,
    others: Sequence[Cell] = (),
    hashes: InputHashes | None = None,
) -> str:
    """Return the key of a cell whose module reaches other backbones by this transfer.

    It contains everything that the transfer receives. The old model and the seed are in the
    module's key, and the target is in the key of the data. Fits of ``others`` on the source stand
    for those on the target, which differ in the target alone.
    """
    if transfer == COPIED:
        return module
    hashes = hashes or InputHashes()
    instance = find_transfer(transfer)
    access = instance.card.access
    needed = describe_transfer(instance)
    if "unlabelled" in access:
        needed["unlabelled"] = hashes.unlabelled(task)
    if "labels" in access:
        shots = instance.config.shots
        needed["labels"] = hashes.draw(draw_first, task, shots, seed, training.val_shots)
    if others:
        source = others[0].source
        needed["modules"] = [other.key for other in others if other.source == source]
    words = words_hash() if "words" in access else ""
    parts = [instance.card.name, instance.card.version, words, ENGINE_VERSION, module]
    if needed:
        parts.append(needed)
    return sha256_json(parts)


def data_key(backbone: str, test_set: str, hashes: InputHashes | None = None) -> str:
    """Return the hash of a backbone's weights and of a test set: images, labels, descriptions.

    The weights are located, and fetched where that is allowed, but no model is loaded.
    """
    hashes = hashes or InputHashes()
    return sha256_json([*hashes.weights(backbone), hashes.test_set(test_set)])


def zero_shot_key(data: str, precision: str) -> str:
    """Return the key of the zero-shot predictions at a place whose ``data_key`` is ``data``."""
    return sha256_json(["zero-shot", data, precision, ENGINE_VERSION])


def identify(
    code: str,
    card: MethodCard,
    task: str,
    config: Mapping[str, Any] | None = None,
    hashes: InputHashes | None = None,
) -> str:
    """Return the identity of a method's code, with everything else that its card says it needs.

    For the need ``words``, a list that comes with the project, the method's version stands.
    """
    hashes = hashes or InputHashes()
    parts = [code]
    if "descriptions" in card.needs:
        parts.append(sha256_json(load_task(task).labels_for(card.needs).descriptions))
    if "unlabelled" in card.needs:
        parts.append(hashes.unlabelled(task))
    teacher = find_teacher(card, config or {})
    if teacher is not None:
        parts.append(sha256_json(hashes.weights(teacher)))
    if "stream" in card.needs:
        parts.append("stream")
    return "+".join(parts)


def changed_settings(method: type[Method], config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are not the method's defaults, which its identity stands for."""
    return method.Config.model_validate(config).model_dump(mode="json", exclude_defaults=True)


def find_teacher(card: MethodCard, config: Mapping[str, Any]) -> str | None:
    """Return the teacher backbone that a method's settings name; None if its card needs none."""
    return config["teacher"] if "teacher" in card.needs else None


def describe_training(training: TrainingCard) -> dict[str, Any]:
    """Return the part of a training that keys contain."""
    return training.model_dump(mode="json", exclude={"max_steps"}, exclude_defaults=True)


def _hash_test_set(name: str) -> str:
    task = load_test_set(name)
    images = task.fingerprint(task.split("test"))
    texts = _own_texts(task)
    return sha256_json([images, texts]) if texts else images


def _own_texts(task: Task) -> tuple[tuple[str, ...], ...]:
    """Return the descriptions of a user's own task, which modules of another task may receive.

    Those of built-in tasks are the project's: a test holds the rows that were measured with them.
    """
    if task_cards.own_folder(whole_name(task.parent or task.name)) is None:
        return ()
    try:
        return task.labels_for({"descriptions"}).descriptions
    except CompatbenchError:  # a method that needs them raises it
        return ()


def _hash_unlabelled(name: str) -> str:
    task = load_task(name)
    return task.source.fingerprint(task.split("train"))


def _hash_draw(make: Callable[..., Draw], name: str, *arguments: Any) -> tuple[str, str]:
    """Return the hashes of the training and of the validation images of a draw."""
    task = load_task(name)
    draw = make(task, *arguments)
    return task.fingerprint(draw.train), task.fingerprint(draw.val)


def _hash_weights(backbone: str) -> tuple[str, Any]:
    card = read_backbone(backbone)
    return weights_key(card), card.config
