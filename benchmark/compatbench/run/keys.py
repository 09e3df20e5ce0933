"""What decides a number: the hashes that name cells and records."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import compatbench
from compatbench.cards import backbone_cards
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


@lru_cache(maxsize=1)
def engine_hash() -> str:
    """Hash of the harness's number-deciding code."""
    root = Path(compatbench.__file__).parent
    paths = sorted(path for pattern in ENGINE for path in root.glob(pattern))
    return sha256_json({path.relative_to(root).as_posix(): hash_code(path) for path in paths})


@lru_cache(maxsize=256)
def data_key(backbone: str, test_set: str) -> str:
    """Hash of a backbone's weights and of a test set's images and labels."""
    task = load_task(test_set)
    return _with_weights(backbone, task.fingerprint(task.split("test")))


@lru_cache(maxsize=1024)
def fit_key(backbone: str, task: str, shots: int, seed: int, file: Path | None = None) -> str:
    """Hash of a backbone's weights and of the images and labels of a few-shot draw.

    Args:
        file: with the draw, if it is given and not made here.
    """
    loaded = load_task(task)
    draw = draw_shots(loaded, shots, seed, file)
    return _with_weights(backbone, loaded.fingerprint(draw.train), loaded.fingerprint(draw.val))


def _with_weights(backbone: str, *data: Any) -> str:
    card = backbone_cards.read(backbone)
    return sha256_json([card.sha256, card.config, *data])


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
