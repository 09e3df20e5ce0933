"""Fetch a backbone's weights, check them against published hashes, and name them by their hash."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

from compatbench.backbone.load.backbone_names import (
    check_release,
    preprocessing,
    published_hash,
    read_backbone,
    release_facts,
)
from compatbench.backbone.load.find_weights import BESIDE, find_weights
from compatbench.backbone.load.tokenizer_files import find_merges, locate_tokenizer
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import BackboneCard, backbone_cards, suite_cards
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import BackboneError, CompatbenchError, MissingWeights
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import canonical_json, hash_file, sha256_bytes, sha256_json
from compatbench.files.project_folders import tasks_folder

_SHA256 = re.compile(r"[0-9a-f]{64}")


def weights_key(card: BackboneCard) -> str:
    """Return the hash of everything that determines a backbone's features.

    For weights that ship with their card it is the card's own hash. Otherwise it covers the
    weights file, the preprocessing and the version of the engine, and for a folder its
    configuration files too. A tokenizer beside a custom card is part of it, too.

    Raises:
        MissingWeights: the weights are not here and cannot be downloaded.
        BackboneError: the weights are damaged, or do not belong to the card's model.
    """
    key = _hash_model(card)
    merges = find_merges(card)
    if merges is None or merges.is_relative_to(tasks_folder()):
        return key  # a tokenizer that ships never changes
    return sha256_json([key, hash_weights(merges)])


def _hash_model(card: BackboneCard) -> str:
    """Return the hash of a backbone without its tokenizer."""
    if card.weights is not None and card.sha256 is not None:
        return card.sha256
    path = locate_weights(card)
    beside = {}
    if card.config is None:
        for pattern in BESIDE:
            for other in path.parent.glob(pattern):
                beside[other.name] = hash_weights(other)
    if card.provider == "hf":  # its preprocessing is in a file beside the weights
        return sha256_json([beside | {path.name: hash_weights(path)}, ENGINE_VERSION])
    return sha256_json([hash_weights(path), beside, preprocessing(card), ENGINE_VERSION])


def locate_weights(card: BackboneCard, download: bool = True) -> Path:
    """Return the weights file of a card, checked against its hash.

    Args:
        download: fetch the file if it is not on this machine.

    Raises:
        MissingWeights: the file is not here and cannot be downloaded.
        BackboneError: the file is damaged, or belongs to another model than the card's.
    """
    if card.weights is None:  # weights beside the card are not a release of open_clip
        check_release(card)
    path = find_weights(card, download=download)
    # A file that the user chose has no published hash.
    published = ""
    if card.path is None:
        published = card.hashes.get(path.name, "")
        if not published and not card.weights:
            url = release_facts(card).get("url", "")
            if url and Path(url).name == path.name:
                published = published_hash(url)
    if not hash_weights(path).startswith(card.sha256 or published):
        fix = f"delete {path.resolve()} and fetch it again"
        if card.weights:
            fix = "restore the file (git checkout, or reinstall)"
        raise BackboneError(
            f"backbone '{card.name}': {path} is damaged or was replaced: its SHA-256 is not the "
            "one that is published, or on the card",
            fix,
        )
    return path


def hash_weights(path: Path) -> str:
    """Return the SHA-256 of a file, cached by path, size and time of change.

    Raises:
        BackboneError: the file is unreadable, or differs from its hash in the hub's cache.
    """
    try:
        real = path.resolve()
        stat = real.stat()
        digest = _hash(real, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise BackboneError(
            f"cannot read weights {path}: {error.strerror}", "correct its permissions"
        ) from None
    # The hub's cache names a large file by its hash.
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name) and real.name != digest:
        raise BackboneError(
            f"weights {path} are damaged: their SHA-256 is not the one of the hub",
            f"delete {real} and fetch it again",
        )
    return digest


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file, from the cache folder if the file has not changed since."""
    state = {"path": str(path), "size": size, "changed": changed}
    kept = default_cache_folder() / "hashes" / f"{sha256_bytes(str(path).encode())}.json"
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known.items() >= state.items() and _SHA256.fullmatch(str(known.get("sha256"))):
            return known["sha256"]
    digest = hash_file(path)
    # If the cache cannot be written, the hash is computed again next time.
    entry = {**state, "sha256": digest}
    with contextlib.suppress(CompatbenchError):
        write_atomic(kept, canonical_json(entry).encode())
    return digest


@dataclass(frozen=True)
class FetchedWeights:
    """The result of fetching a backbone's weights."""

    name: str
    licence: str
    file: Path | None  # the weights, checked; None if they could not be fetched
    problem: str = ""  # the reason if there is no file, with a fix


def fetch_backbones(
    backbones: str | Sequence[str] = (),
    suite: str | None = None,
    *,
    progress: Callable[[str], object] = lambda _: None,
) -> list[FetchedWeights]:
    """Download weights and tokenizers that are not on this machine, and check all weights.

    Args:
        backbones: names of cards, globs or comma lists of these, or ``MODEL/TAG``.
        suite: fetch the weights of all upgrades of this suite.
        progress: called with the name of each backbone before it is searched for.

    Returns:
        A record per backbone. If its weights could not be fetched, ``problem`` has the reason.

    Raises:
        CompatbenchError: an unknown name or suite, or a broken card.
    """
    if isinstance(backbones, str):
        backbones = [backbones]
    names = []
    for name in backbones:
        if set("/@:").intersection(name):  # such a name needs no card
            names.append(name)
        else:
            names += backbone_cards.select_names(name)
    suite_card = None
    if suite is not None:
        suite_card = suite_cards.read(suite)
        names += chain(*suite_card.upgrades)
    if not names:
        raise CompatbenchError("nothing to fetch: name backbones, or a suite")
    fetched = []
    cards = []
    for name in dict.fromkeys(names):
        try:
            cards.append(read_backbone(name, suite_card))
        except MissingWeights as error:  # the user has to make these weights
            fetched.append(FetchedWeights(name, "", None, str(error)))
    for card in cards:
        progress(card.name)
        try:
            file = locate_weights(card)
            locate_tokenizer(card)
        except CompatbenchError as error:
            fetched.append(FetchedWeights(card.name, card.licence, None, str(error)))
        else:
            fetched.append(FetchedWeights(card.name, card.licence, file))
    return fetched
