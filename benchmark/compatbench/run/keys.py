"""What decides a number: the hashes that name cells and records."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import compatbench
from compatbench.backbone.loading import is_planning, read_backbone, weights_key
from compatbench.files import sha256_json
from compatbench.run.cell import SCHEMA
from compatbench.source import hash_code
from compatbench.task import load_task
from compatbench.task.draws import draw_shots

# The harness's own code that decides numbers. A change of behaviour in any of these
# makes every cell new; comments, docstrings and layout are not part of the hash.
ENGINE = (
    "backbone/*.py",
    "features.py",
    "labels.py",
    "method/__init__.py",
    "method/module.py",
    "method/optim.py",
    "method/trained.py",
    "run/fit.py",
    "task/sampling.py",
    "views.py",
)

# Tells of backbones, and computes nothing. What finds and reads weights is in folders of its
# own: the code that reads a file is part of that file's key (``backbone/loading/keys.py``).
NO_ENGINE = ("backbone/inspect.py",)


@lru_cache(maxsize=1)
def engine_hash() -> str:
    """Hash of the harness's number-deciding code."""
    root = Path(compatbench.__file__).parent
    paths = sorted(path for pattern in ENGINE for path in root.glob(pattern))
    paths = [path for path in paths if path.relative_to(root).as_posix() not in NO_ENGINE]
    return sha256_json({path.relative_to(root).as_posix(): hash_code(path) for path in paths})


def data_key(backbone: str, test_set: str) -> str:
    """Hash of a backbone's weights and of a test set's images and labels.

    The weights are found, and fetched where that is allowed, but no model is loaded.

    Raises:
        CompatbenchError: weights or images that cannot be had, or a broken card.
    """
    return _data_key(backbone, test_set, is_planning())


@lru_cache(maxsize=1024)
def _data_key(backbone: str, test_set: str, planning: bool) -> str:
    task = load_task(test_set)
    return _with_weights(backbone, task.fingerprint(task.split("test")))


def fit_key(backbone: str, task: str, shots: int, seed: int, file: Path | None = None) -> str:
    """Hash of a backbone's weights and of the images and labels of a few-shot draw.

    Args:
        file: with the draw, if it is given and not made here.

    Raises:
        CompatbenchError: as ``data_key``.
    """
    return _fit_key(backbone, task, shots, seed, file, is_planning())


@cache  # a plan asks for its keys in rounds, which a bound would undo
def _fit_key(
    backbone: str, task: str, shots: int, seed: int, file: Path | None, planning: bool
) -> str:
    loaded = load_task(task)
    draw = draw_shots(loaded, shots, seed, file)
    return _with_weights(backbone, loaded.fingerprint(draw.train), loaded.fingerprint(draw.val))


def _with_weights(backbone: str, *data: Any) -> str:
    return sha256_json([*_weights(backbone, is_planning()), *data])


@lru_cache(maxsize=1024)
def _weights(backbone: str, planning: bool) -> tuple[str, Any]:
    card = read_backbone(backbone)
    return weights_key(card), card.config


def cell_key(
    method: str,
    method_source: str,
    config: dict[str, object],
    source: str,
    task: str,
    shots: int,
    seed: int,
    training: dict[str, object],
    file: Path | None = None,
) -> str:
    """The key of a fit: equal keys, equal modules."""
    return sha256_json(
        {
            "schema": SCHEMA,
            "engine": engine_hash(),
            "method": method,
            "method_source": method_source,
            "config": config,
            "data": fit_key(source, task, shots, seed, file),
            "shots": shots,
            "seed": seed,
            "training": training,
        }
    )
