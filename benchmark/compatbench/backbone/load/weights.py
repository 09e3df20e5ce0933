"""Finds the weights of a backbone, or downloads them, and identifies them by hash; loads no model.

Environment variables are read when they are needed, so that worker processes follow them, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from compatbench.backbone.load.names import (
    check_release,
    preprocessing,
    published_hash,
    release_facts,
)
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import BackboneCard
from compatbench.data.cards.yaml_file import WEIGHTS_FOLDER
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import BackboneError, CompatbenchError, MissingWeights
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import canonical_json, sha256_bytes, sha256_file, sha256_json
from compatbench.files.project_folders import tasks_folder
from compatbench.messages import first_line

OFFLINE = "HF_HUB_OFFLINE"

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_IN_REPOSITORY = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_IN_FOLDER = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
_OF_TRANSFORMERS = ("model.safetensors", "pytorch_model.bin")
_BESIDE = ("*.json", "*.txt", "*.model")
_TIMEOUT = 10  # seconds
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


def is_set(variable: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")


def is_offline() -> bool:
    """Whether downloads are forbidden: ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``."""
    return is_set(OFFLINE) or is_set("TRANSFORMERS_OFFLINE")


def hub_cache() -> Path:
    """The cache of the Hugging Face hub, from the hub's own variables."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{base}/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


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
            found = (other for pattern in _BESIDE for other in path.parent.glob(pattern))
            beside = {other.name: hash_weights(other) for other in found}
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
    if card.path is None and card.weights is None:
        check_published_hash(path, release_facts(card).get("url", ""))
    published = card.hashes.get(path.name) if card.path is None else None
    expected = card.sha256 or published
    if expected is not None and hash_weights(path) != expected:
        raise BackboneError(
            f"backbone '{card.name}': {path} is damaged or was replaced: its SHA-256 is not the "
            "one on the card",
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
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found.items() >= state.items() and _SHA256.fullmatch(str(found.get("sha256"))):
            return found["sha256"]
    digest = sha256_file(path)
    # If the cache cannot be written, the hash is computed again next time.
    with contextlib.suppress(CompatbenchError):
        write_atomic(kept, canonical_json({**state, "sha256": digest}).encode())
    return digest


def check_published_hash(path: Path, url: str) -> None:
    """Refuses a file whose hash is not the one in its download address."""
    if not url or Path(url).name != path.name:
        return
    if (published := published_hash(url)) and not hash_weights(path).startswith(published):
        raise BackboneError(
            f"weights {path} are damaged or another file: their SHA-256 is not the published one",
            f"fetch {url} again",
        )


def find_weights(card: BackboneCard, download: bool = False) -> Path:
    """The file that holds a card's weights.

    Looks at, in this order: the card's own file or path; ``COMPATBENCH_WEIGHTS``; the cache
    of the Hugging Face hub; ``~/.cache/clip``; and, if ``download`` is set and the user is
    not offline, the network.

    Raises:
        MissingWeights: the file is in none of these places, or the download failed.
        BackboneError: a folder without weights.
    """
    if card.weights is not None:
        path = tasks_folder() / card.weights
        if path.is_file():
            return path
        raise _missing(card, f"weights {path} are", "restore the file (git checkout, or reinstall)")
    if card.path is not None:
        return _find_in_path(card, Path(card.path).expanduser())
    repository, files, url = published_files(card)
    looked = []
    for place, candidates in _places(card, repository, files, url):
        looked.append(place)
        if found := next((path for path in candidates if path.is_file()), None):
            return found
    title, get = Path(url).name, f"fetch {url},"
    if repository:
        title = f"{files[0]} of {repository}"
        one = "" if card.provider == "hf" else f" {files[0]}"
        commit = f" --revision {card.revision}" if card.revision else ""
        get = f"where there is a network: hf download {repository}{one}{commit};"
    missing = f"backbone '{card.name}': {title} is not on this machine"
    fix = f"{get} or put it into a folder that {WEIGHTS_FOLDER} names"
    if not download or is_offline():
        why = f", and nothing may be fetched ({OFFLINE})" if download else ""
        raise MissingWeights(f"{missing}{why}; looked in {', '.join(looked)}", fix)
    try:
        return _download(card, repository, files, url)
    # The hub raises the errors of its HTTP library, which differs between versions.
    except Exception as error:
        reason = first_line(error).strip(" .")
        raise MissingWeights(f"{missing} and cannot be fetched: {reason}", fix) from None


def _missing(card: BackboneCard, what: str, fix: str = "correct the path") -> MissingWeights:
    return MissingWeights(f"backbone '{card.name}': {what} missing", fix)


def _find_in_path(card: BackboneCard, path: Path) -> Path:
    """A checkpoint, or the weights in a model's folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise _missing(card, f"{path} is")
    names = _OF_TRANSFORMERS if card.provider == "hf" else _IN_FOLDER
    found = [path / name for name in names if (path / name).is_file()]
    if not found and card.provider == "open_clip":
        found = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
        if len(found) > 1:
            raise BackboneError(
                f"backbone '{card.name}': {path} holds several checkpoints, "
                f"{', '.join(p.name for p in found)}",
                f"rename the right one to {names[0]}",
            )
    if not found:
        problem = f"backbone '{card.name}': {path} holds no weights"
        raise MissingWeights(problem, f"put {names[0]} there")
    return found[0]


def published_files(card: BackboneCard) -> tuple[str, Sequence[str], str]:
    """Where a card's weights are published: a repository of the hub, or an address, or both.

    The file's names in the repository are given, the preferred one first.
    """
    if card.provider == "hf":
        return card.repository, _OF_TRANSFORMERS, ""
    facts = release_facts(card)
    owner, name, file = (*facts.get("hf_hub", "").split("/", 2), "", "", "")[:3]
    files = _IN_REPOSITORY
    if file:
        files = tuple(dict.fromkeys((str(Path(file).with_suffix(".safetensors")), file)))
    return f"{owner}/{name}" if name else card.repository, files, facts.get("url", "")


def _places(
    card: BackboneCard, repository: str, files: Sequence[str], url: str
) -> Iterator[tuple[str, list[Path]]]:
    """Where to look, in words, with the files that would do."""
    from huggingface_hub import try_to_load_from_cache

    def in_hub_cache(cache: Path) -> list[Path]:
        names = files if repository else ()
        places = [
            (name, commit) for commit in dict.fromkeys((card.revision, None)) for name in names
        ]
        found = (
            try_to_load_from_cache(repository, name, cache_dir=cache, revision=commit)
            for name, commit in places
        )
        return [Path(path) for path in found if isinstance(path, str)]

    # The authors' own names of the file, which people keep.
    own = [*([Path(url).name] if url else []), *card.files]
    if given := os.environ.get(WEIGHTS_FOLDER):
        root = Path(given).expanduser()
        stems = [card.name] if "/" not in card.name and card.config else []
        stems += [f"{card.config}-{card.tag}"] if card.config else []
        names = [f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES]
        folders = (repository, repository.rpartition("/")[-1]) if repository else ()
        names += [f"{folder}/{file}" for file in files for folder in folders]
        places = [root / name for name in names] + in_hub_cache(root)
        yield f"{WEIGHTS_FOLDER}={root}", places + [root / name for name in own]
    if repository:
        yield str(hub_cache()), in_hub_cache(hub_cache())
    if url:
        cache = Path.home() / ".cache" / "clip"
        yield str(cache), [cache / name for name in own]


def _download(card: BackboneCard, repository: str, files: Sequence[str], url: str) -> Path:
    """Downloads weights into the cache in which they are looked for."""
    from huggingface_hub import snapshot_download
    from open_clip.pretrained import download_pretrained_from_hf, download_pretrained_from_url

    if not repository:
        return Path(download_pretrained_from_url(url))
    check_network()
    if card.provider == "open_clip":
        # open_clip prefers the safetensors file of that name, if there is one.
        cache, commit = str(hub_cache()), card.revision
        return Path(download_pretrained_from_hf(repository, files[-1], commit, cache))
    for file in files:
        patterns = [*_BESIDE, file]
        folder = snapshot_download(
            repository, revision=card.revision, cache_dir=hub_cache(), allow_patterns=patterns
        )
        if (path := Path(folder) / file).is_file():
            return path
    raise FileNotFoundError("the repository holds no weights")


def check_network() -> None:
    """Tries to reach the hub once; the hub's own client would retry for half a minute."""
    from huggingface_hub.constants import ENDPOINT

    place = urlsplit(ENDPOINT)
    if place.hostname and not getproxies():
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname, port), timeout=_TIMEOUT).close()
