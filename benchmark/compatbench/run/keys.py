"""What decides a number: the hashes that name cells and records."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import compatbench
from compatbench.cards import backbone_cards
from compatbench.files import sha256_json
from compatbench.run.cell import SCHEMA
from compatbench.source import hash_code
from compatbench.task import load_task

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


def weights_key(backbone: str) -> list[str]:
    """What of a backbone decides its features.

    Raises:
        CompatbenchError: no such backbone, or its weights are not here.
    """
    card = backbone_cards.read(backbone)
    return [card.sha256, card.config]


def images_key(test_set: str) -> str:
    """Hash of a test set's images and labels.

    Raises:
        CompatbenchError: no such task, or its images are not here.
    """
    return load_task(test_set).fingerprint


@lru_cache(maxsize=256)
def data_key(backbone: str, test_set: str) -> str:
    """Hash of a backbone's weights and of a test set's images and labels."""
    return sha256_json([*weights_key(backbone), images_key(test_set)])


def cell_key(
    method: str,
    method_source: str,
    config: dict[str, object],
    source: str,
    task: str,
    shots: int,
    seed: int,
    training: dict[str, object],
) -> str:
    """The key of a fit: equal keys, equal modules."""
    return sha256_json(
        {
            "schema": SCHEMA,
            "engine": engine_hash(),
            "method": method,
            "method_source": method_source,
            "config": config,
            "data": data_key(source, task),
            "shots": shots,
            "seed": seed,
            "training": training,
        }
    )
