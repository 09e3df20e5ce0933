"""What names a backbone's weights in keys and in the feature cache; the model is not loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compatbench.backbone.load.find import Source, find_weights
from compatbench.backbone.load.hashes import check_known_hash, hash_weights
from compatbench.backbone.load.releases import check_release, preprocessing
from compatbench.data.cards import BackboneCard
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import BackboneError, MissingWeights
from compatbench.files.hashes import sha256_json

_planning = False

_CONFIGURATION = ("*.json", "*.model", "*.txt")


@contextmanager
def planning() -> Iterator[None]:
    """For a while, nothing is fetched, and missing weights have a key of their own."""
    global _planning
    before, _planning = _planning, True
    try:
        yield
    finally:
        _planning = before


def is_planning() -> bool:
    """Whether keys are only to be shown."""
    return _planning


def locate_weights(card: BackboneCard) -> Path:
    """The weights file of a card, fetched if need be, and held against a published hash.

    Raises:
        MissingWeights: they are not here and cannot be fetched.
        BackboneError: they are damaged, or the card's model is not the one they are for.
    """
    check_release(card)
    path = find_weights(card, download=not _planning)
    if card.path is None and card.weights is None:
        check_known_hash(path, Source.of(card).url)
    if card.sha256 is not None and hash_weights(path) != card.sha256:
        raise BackboneError(
            f"backbone '{card.name}': {path} is damaged or was replaced: its SHA-256 is not the "
            "one on the card",
            "restore the file (git checkout, or reinstall)" if card.weights else "fetch it again",
        )
    return path


def weights_key(card: BackboneCard) -> str:
    """The hash of what decides a backbone's features.

    For weights that ship with their card it is the card's own hash. Otherwise it is made of
    the hash of the file that is found, of the preprocessing and of the code that reads it;
    for a folder, of the configuration in it too.

    Raises:
        MissingWeights, BackboneError: as ``locate_weights``.
    """
    if card.weights is not None and card.sha256 is not None:
        return card.sha256
    try:
        return _key_of_folder(card) if card.provider == "hf" else _key_of_file(card)
    except MissingWeights:
        if not _planning:
            raise
    return sha256_json(["missing", card.name])


def _key_of_file(card: BackboneCard) -> str:
    path = locate_weights(card)
    beside: dict[str, str] = {}
    if card.config is None:
        beside = {
            other.name: hash_weights(other)
            for pattern in _CONFIGURATION
            for other in path.parent.glob(pattern)
        }
    return sha256_json([hash_weights(path), beside, preprocessing(card), ENGINE_VERSION])


def _key_of_folder(card: BackboneCard) -> str:
    """All files of a model of transformers, the tokenizer's too, and the code that wraps it."""
    from compatbench.backbone.hf.files import model_files

    files = model_files(card, download=not _planning)
    return sha256_json([{path.name: hash_weights(path) for path in files}, ENGINE_VERSION])
