"""Finds the weights of a backbone on this machine, or downloads them.

Environment variables are read when they are needed, so that worker processes follow them, too.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from compatbench.backbone.load.open_clip_models import release_facts
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError, MissingWeights, first_line
from compatbench.files.project_folders import tasks_folder

OFFLINE = "HF_HUB_OFFLINE"
WEIGHTS_FOLDER = "COMPATBENCH_WEIGHTS"

CONFIG = "config.json"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_IN_REPOSITORY = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_IN_FOLDER = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
_OF_TRANSFORMERS = ("*.safetensors", "pytorch_model*.bin")
BESIDE = ("*.json", "*.txt", "*.model")
_TIMEOUT = 10  # seconds


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


@dataclass(frozen=True)
class _Wanted:
    """A file that is looked for."""

    backbone: str  # whose it is
    title: str  # of the file
    repository: str  # on the Hugging Face hub; may be empty
    files: tuple[str, ...]  # names of the file there, the preferred one first
    how_to_get: str
    url: str = ""  # address of a file elsewhere
    own: tuple[str, ...] = ()  # other names under which people have the file
    named: tuple[str, ...] = ()  # names that the user may have given to it

    def places(self) -> Iterator[tuple[str, list[Path]]]:
        """Where to look, in words, with the files that would do."""
        if given := os.environ.get(WEIGHTS_FOLDER):
            root, last = Path(given).expanduser(), self.repository.rpartition("/")[-1]
            folders = (self.repository, last) if self.repository else ()
            names = [*self.named, *(f"{f}/{file}" for file in self.files for f in folders)]
            places = [root / name for name in names] + self._in_hub_cache(root)
            yield f"{WEIGHTS_FOLDER}={root}", places + [root / name for name in self.own]
        if self.repository:
            yield str(hub_cache()), self._in_hub_cache(hub_cache())
        if self.url:
            cache = Path.home() / ".cache" / "clip"
            yield str(cache), [cache / name for name in self.own]

    def _in_hub_cache(self, cache: Path) -> list[Path]:
        from huggingface_hub import try_to_load_from_cache

        files = self.files if self.repository else ()
        found = (try_to_load_from_cache(self.repository, file, cache_dir=cache) for file in files)
        return [Path(path) for path in found if isinstance(path, str)]

    def search(self, fits: Callable[[Path], bool], fetch: Callable[[_Wanted], Path] | None) -> Path:
        """The first file that fits; if there is none and the user is not offline, it is fetched.

        Raises:
            MissingWeights: no file fits, or the download failed.
        """
        looked = []
        for place, candidates in self.places():
            looked.append(place)
            if found := next((path for path in candidates if fits(path)), None):
                return found
        missing = f"backbone '{self.backbone}': {self.title} is not on this machine"
        if fetch is None or is_offline():
            why = f", and nothing may be fetched ({OFFLINE})" if fetch else ""
            missing = f"{missing}{why}; looked in {', '.join(looked)}"
            raise MissingWeights(missing, self.how_to_get)
        try:
            return fetch(self)
        # The hub raises the errors of its HTTP library, which differs between versions.
        except Exception as error:
            reason = first_line(error).strip(" .")
            missing = f"{missing} and cannot be fetched: {reason}"
            raise MissingWeights(missing, self.how_to_get) from None


def find_weights(card: BackboneCard, download: bool = False) -> Path:
    """The file that holds a card's weights; of a model of transformers in several, the first.

    Looks at, in this order: the card's own file or path; ``COMPATBENCH_WEIGHTS``; the cache
    of the Hugging Face hub; ``~/.cache/clip``; and, if ``download`` is set and the user is
    not offline, the network.

    Raises:
        MissingWeights: the file is in none of these places, or the download failed.
        BackboneError: a folder without weights.
    """
    if card.provider == "hf":
        return model_files(card, download)[0]
    if card.weights is not None:
        path = tasks_folder() / card.weights
        if path.is_file():
            return path
        raise _missing(card, f"weights {path} are", "restore the file (git checkout, or reinstall)")
    if card.path is not None:
        return _find_in_path(card, Path(card.path).expanduser())
    facts = release_facts(card)
    owner, name, file = (*facts.get("hf_hub", "").split("/", 2), "", "", "")[:3]
    repository, url = f"{owner}/{name}" if name else card.repository, facts.get("url", "")
    files = _IN_REPOSITORY
    if file:
        files = tuple(dict.fromkeys((str(Path(file).with_suffix(".safetensors")), file)))
    get = f"fetch {url},"
    if repository:
        get = f"where there is a network: hf download {repository} {files[0]};"
    stems = [*([card.name] if "/" not in card.name else []), f"{card.config}-{card.tag}"]
    wanted = _Wanted(
        card.name,
        title=f"{files[0]} of {repository}" if repository else Path(url).name,
        repository=repository,
        files=files,
        how_to_get=f"{get} or put the file into a folder that {WEIGHTS_FOLDER} names",
        url=url,
        own=(*([Path(url).name] if url else []), *card.files),
        named=tuple(f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES),
    )
    return wanted.search(Path.is_file, _download_release if download else None)


def _missing(card: BackboneCard, what: str, fix: str = "correct the path") -> MissingWeights:
    return MissingWeights(f"backbone '{card.name}': {what} missing", fix)


def _download_release(wanted: _Wanted) -> Path:
    """Downloads a release into the cache in which it is looked for."""
    from open_clip.pretrained import download_pretrained_from_hf, download_pretrained_from_url

    if not wanted.repository:
        return Path(download_pretrained_from_url(wanted.url))
    check_network()
    # open_clip prefers the safetensors file of that name, if there is one.
    repository, file = wanted.repository, wanted.files[-1]
    return Path(download_pretrained_from_hf(repository, file, cache_dir=str(hub_cache())))


def check_network() -> None:
    """Tries to reach the hub once; the hub's own client would retry for half a minute.

    Raises:
        OSError: there is no network.
    """
    from huggingface_hub.constants import ENDPOINT

    place = urlsplit(ENDPOINT)
    if place.hostname and not getproxies():
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname, port), timeout=_TIMEOUT).close()


def _find_in_path(card: BackboneCard, path: Path) -> Path:
    """A checkpoint, or the weights in a model's folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise _missing(card, f"{path} is")
    found = [path / name for name in _IN_FOLDER if (path / name).is_file()]
    found = found or sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
    if not found:
        raise _no_weights(card, path, _IN_FOLDER[0])
    if len(found) > 1 and found[0].name not in _IN_FOLDER:
        raise BackboneError(
            f"backbone '{card.name}': {path} holds several checkpoints, "
            f"{', '.join(p.name for p in found)}",
            f"rename the right one to {_IN_FOLDER[0]}",
        )
    return found[0]


def _no_weights(card: BackboneCard, folder: Path, file: str) -> MissingWeights:
    return MissingWeights(f"backbone '{card.name}': {folder} holds no weights", f"put {file} there")


def model_files(card: BackboneCard, download: bool = False) -> list[Path]:
    """All files of a model of transformers that decide its features, weights first.

    Raises:
        MissingWeights: the folder is not on this machine, or holds no weights.
    """
    folder = model_folder(card, download)
    if not (weights := _weights_in(folder)):
        raise _no_weights(card, folder, "model.safetensors")
    return [*weights, *(path for pattern in BESIDE for path in sorted(folder.glob(pattern)))]


def model_folder(card: BackboneCard, download: bool = False) -> Path:
    """The folder of a model of transformers, found in the same places.

    Raises:
        MissingWeights: the folder is in none of these places, or the download failed.
    """
    if card.path is not None:
        folder = Path(card.path).expanduser()
        if not (folder / CONFIG).is_file():
            raise _missing(card, f"{folder / CONFIG} is")
        return folder
    repository = card.repository
    plain = "/" not in card.name and ":" not in card.name
    wanted = _Wanted(
        card.name,
        title=repository,
        repository=repository,
        files=(CONFIG,),
        how_to_get=f"where there is a network: hf download {repository}; or put its files "
        f"into a folder {repository} below one that {WEIGHTS_FOLDER} names",
        named=(f"{card.name}/{CONFIG}",) if plain else (),
    )
    fits = lambda config: config.is_file() and bool(_weights_in(config.parent))  # noqa: E731
    return wanted.search(fits, _download_model if download else None).parent


def _weights_in(folder: Path) -> list[Path]:
    """The weights files, safetensors if there are any."""
    return next((found for p in _OF_TRANSFORMERS if (found := sorted(folder.glob(p)))), [])


def _download_model(wanted: _Wanted) -> Path:
    from huggingface_hub import snapshot_download

    check_network()
    for weights in _OF_TRANSFORMERS:
        patterns = [*BESIDE, weights]
        folder = snapshot_download(
            wanted.repository, cache_dir=hub_cache(), allow_patterns=patterns
        )
        if _weights_in(Path(folder)):
            return Path(folder) / CONFIG
    raise FileNotFoundError("the repository holds no weights")
