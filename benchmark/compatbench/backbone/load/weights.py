"""A backbone's weights: fetched, and named by their hash, checked against those published."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

from compatbench.backbone.load.find_weights import BESIDE, find_weights
from compatbench.backbone.load.names import (
    check_release,
    preprocessing,
    published_hash,
    read_backbone,
    release_facts,
)
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import BackboneCard, backbone_cards, suite_cards
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import BackboneError, CompatbenchError, MissingWeights
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import canonical_json, hash_file, sha256_bytes, sha256_json

_SHA256 = re.compile(r"[0-9a-f]{64}")

_planning = False


@contextlib.contextmanager
def planning() -> Iterator[None]:
    """Within this context nothing is downloaded, and missing weights have a key of their own."""
    global _planning
    before, _planning = _planning, True
    try:
        yield
    finally:
        _planning = before


def is_planning() -> bool:
    """Whether keys are only to be shown."""
    return _planning


def weights_key(card: BackboneCard) -> str:
    """The hash of what decides a backbone's features.

    For weights that ship with their card it is the card's own hash. Otherwise it covers the
    weights file, the preprocessing and the version of the engine; for a folder, its
    configuration files, too.
    """
    if card.weights is not None and card.sha256 is not None:
        return card.sha256
    try:
        path, beside = locate_weights(card), {}
        if card.config is None:
            others = chain(*(path.parent.glob(pattern) for pattern in BESIDE))
            beside = {other.name: hash_weights(other) for other in others}
        if card.provider == "hf":  # its preprocessing is in a file beside the weights
            return sha256_json([beside | {path.name: hash_weights(path)}, ENGINE_VERSION])
        return sha256_json([hash_weights(path), beside, preprocessing(card), ENGINE_VERSION])
    except MissingWeights:
        if not _planning:
            raise
    return sha256_json(["missing", card.name])


def locate_weights(card: BackboneCard) -> Path:
    """The weights file of a card, downloaded if necessary, checked against published hashes.

    Raises:
        MissingWeights: the file is not here and cannot be downloaded.
        BackboneError: the file is damaged, or belongs to another model than the card's.
    """
    if card.weights is None:  # weights beside the card are no release of open_clip's
        check_release(card)
    path = find_weights(card, download=not _planning)
    published = ""
    if card.path is None:
        url = "" if card.weights else release_facts(card).get("url", "")
        of_url = published_hash(url) if url and Path(url).name == path.name else ""
        published = card.hashes.get(path.name) or of_url
    if not hash_weights(path).startswith(card.sha256 or published):
        raise BackboneError(
            f"backbone '{card.name}': {path} is damaged or was replaced: its SHA-256 is not the "
            "one that is published, or on the card",
            "restore the file (git checkout, or reinstall)" if card.weights else "fetch it again",
        )
    return path


def hash_weights(path: Path) -> str:
    """The SHA-256 of a file, remembered by path, size and time of change."""
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
    state = {"path": str(path), "size": size, "changed": changed}
    kept = default_cache_folder() / "hashes" / f"{sha256_bytes(str(path).encode())}.json"
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known.items() >= state.items() and _SHA256.fullmatch(str(known.get("sha256"))):
            return known["sha256"]
    digest = hash_file(path)
    # If the cache cannot be written, the hash is computed again next time.
    with contextlib.suppress(CompatbenchError):
        write_atomic(kept, canonical_json({**state, "sha256": digest}).encode())
    return digest


@dataclass(frozen=True)
class FetchedWeights:
    """What came of fetching a backbone's weights."""

    name: str
    licence: str
    file: Path | None  # the weights, checked; None if they could not be had
    problem: str = ""  # then why, and what to do


def fetch_backbones(
    backbones: str | Sequence[str] = (),
    suite: str | None = None,
    *,
    progress: Callable[[str], object] = lambda _: None,
) -> list[FetchedWeights]:
    """Downloads the weights of backbones that are not on this machine, and checks all of them.

    Args:
        backbones: names of cards, globs or comma lists of these, or ``MODEL/TAG``.
        suite: fetch those of all upgrades of a suite.
        progress: called with the name of each before it is looked for.

    Returns:
        A record per backbone. What could not be had says why in its ``problem``.

    Raises:
        CompatbenchError: an unknown name or suite, or a broken card.
    """
    names = []
    for name in [backbones] if isinstance(backbones, str) else backbones:
        plain = not set("/@:").intersection(name)  # others need no card
        names += backbone_cards.select_names(name) if plain else [name]
    suite_card = None
    if suite is not None:
        suite_card = suite_cards.read(suite)
        names += [name for upgrade in suite_card.upgrades for name in upgrade]
    if not names:
        raise CompatbenchError("nothing to fetch: name backbones, or a suite")
    fetched = []
    cards = []
    for name in dict.fromkeys(names):
        try:
            cards.append(read_backbone(name, suite_card))
        except MissingWeights as error:  # it has to be made
            fetched.append(FetchedWeights(name, "", None, str(error)))
    for card in cards:
        progress(card.name)
        try:
            fetched.append(FetchedWeights(card.name, card.licence, locate_weights(card)))
        except CompatbenchError as error:
            fetched.append(FetchedWeights(card.name, card.licence, None, str(error)))
    return fetched
