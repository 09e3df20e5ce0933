"""What decides a number: the hashes that name cells and records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from compatbench.backbone.load import read_backbone, weights_key
from compatbench.backbone.words import words_hash
from compatbench.data.cards import COPIED, TrainingCard, task_cards, whole_name
from compatbench.data.draws import Draw, draw_first, draw_shots, load_test_set
from compatbench.data.task import Task, load_task
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json
from compatbench.method import Method, MethodCard
from compatbench.method.registry import describe_transfer, find_transfer


def data_key(backbone: str, test_set: str) -> str:
    """Hash of a backbone's weights and of a test set's images, labels and own descriptions.

    The weights are found, and fetched where that is allowed, but no model is loaded.
    """
    return sha256_json([*_hash_weights(backbone), _hash_test_set(test_set)])


def zero_shot_key(data: str, precision: str) -> str:
    """The key of zero-shot's predictions at a place whose ``data_key`` is ``data``."""
    return sha256_json(["zero-shot", data, precision, ENGINE_VERSION])


def changed_settings(method: type[Method], config: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not the method's defaults, which its identity stands for."""
    return method.Config.model_validate(config).model_dump(mode="json", exclude_defaults=True)


def identify(
    code: str, card: MethodCard, task: str, config: Mapping[str, Any] | None = None
) -> str:
    """The identity of a method's code, with everything else that its card says it is given."""
    parts = [code]
    if "descriptions" in card.needs:
        parts.append(sha256_json(load_task(task).labels_for(card.needs).descriptions))
    if "unlabelled" in card.needs:
        parts.append(_hash_unlabelled(task))
    if (teacher := find_teacher(card, config or {})) is not None:
        parts.append(sha256_json(_hash_weights(teacher)))
    if "stream" in card.needs:
        parts.append("stream")
    return "+".join(parts)


def find_teacher(card: MethodCard, config: Mapping[str, Any]) -> str | None:
    """The teacher backbone that a method's settings name, if its card needs one."""
    return config["teacher"] if "teacher" in card.needs else None


def module_key(
    method: str,
    changed: dict[str, Any],
    source: str,
    draw: tuple[str, int, int],
    training: TrainingCard,
    held_out_of: int | None = None,
) -> str:
    """Hash of everything that decides a module; the key of the cell whose module is copied.

    ``method`` is what ``identify`` gives, ``changed`` the ``changed_settings``. A draw is its task,
    shots and seed; ``held_out_of`` is as for ``draw_shots``. A default is in no key, so that a new
    setting changes none; the versions of method and engine stand for defaults.
    """
    task, shots, seed = draw
    images = _hash_draw(draw_shots, task, shots, seed, training.val_shots, held_out_of)
    return sha256_json(
        {
            "engine": ENGINE_VERSION,
            "method": method,
            "config": changed,
            "data": sha256_json([*_hash_weights(source), *images]),
            "shots": shots,
            "seed": seed,
            # The cap on steps is in the config of the methods that it reaches.
            "training": describe_training(training),
        }
    )


def describe_training(training: TrainingCard) -> dict[str, Any]:
    """What a key says of a training."""
    return training.model_dump(mode="json", exclude={"max_steps"}, exclude_defaults=True)


def transfer_key(module: str, transfer: str, task: str, seed: int, training: TrainingCard) -> str:
    """The key of what is measured of a module that reaches other backbones this way.

    It has what the transfer is given. The old model and the seed are in the module's key, and the
    target is in that of the data.
    """
    if transfer == COPIED:
        return module
    way = find_transfer(transfer)
    needed, access = describe_transfer(way), way.card.access
    if "unlabelled" in access:
        needed["unlabelled"] = _hash_unlabelled(task)
    if "labels" in access:
        how = way.config.shots, seed, training.val_shots
        needed["labels"] = _hash_draw(draw_first, task, *how)
    words = words_hash() if "words" in access else ""
    parts = [way.card.name, way.card.version, words, ENGINE_VERSION, module]
    return sha256_json([*parts, needed] if needed else parts)


@cache
def _hash_test_set(name: str) -> str:
    task = load_test_set(name)
    images, texts = task.fingerprint(task.split("test")), _own_texts(task)
    return sha256_json([images, texts]) if texts else images


def _own_texts(task: Task) -> tuple[tuple[str, ...], ...]:
    """The descriptions of a task of one's own, which modules of another task may be given.

    Those of built-in tasks are the project's: a test holds the rows that were measured with them.
    """
    if task_cards.own_folder(whole_name(task.parent or task.name)) is None:
        return ()
    try:
        return task.labels_for({"descriptions"}).descriptions
    except CompatbenchError:  # which a method that needs them raises
        return ()


@cache
def _hash_unlabelled(name: str) -> str:
    task = load_task(name)
    return task.source.fingerprint(task.split("train"))


@cache
def _hash_draw(make: Callable[..., Draw], name: str, *how: Any) -> tuple[str, str]:
    task = load_task(name)
    draw = make(task, *how)
    return task.fingerprint(draw.train), task.fingerprint(draw.val)


@cache
def _hash_weights(backbone: str) -> tuple[str, Any]:
    card = read_backbone(backbone)
    return weights_key(card), card.config
