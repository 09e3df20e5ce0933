"""Finds the weights file of a backbone on this machine, or downloads it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from compatbench.backbone.load.environment import (
    OFFLINE,
    WEIGHTS_FOLDER,
    hub_cache,
    is_offline,
    weights_folder,
)
from compatbench.backbone.load.open_clip_models import release_facts
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError, MissingWeights
from compatbench.files.project_folders import tasks_folder

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
IN_REPOSITORY = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
IN_FOLDER = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
TIMEOUT = 10  # seconds


@dataclass(frozen=True)
class Source:
    """Where the weights of an open_clip release are published.

    Attributes:
        repository: on the Hugging Face hub; may be empty.
        files: names of the weights there, the preferred one first.
        url: address of a file elsewhere; may be empty.
    """

    repository: str
    files: tuple[str, ...]
    url: str

    @classmethod
    def of(cls, card: BackboneCard) -> Source:
        facts = release_facts(card)
        owner, _, rest = facts.get("hf_hub", "").partition("/")
        name, _, file = rest.partition("/")
        repository = f"{owner}/{name}" if name else card.repository
        files = IN_REPOSITORY
        if file:
            files = tuple(dict.fromkeys((str(Path(file).with_suffix(".safetensors")), file)))
        return cls(repository, files, facts.get("url", ""))

    def __str__(self) -> str:
        return f"{self.files[0]} of {self.repository}" if self.repository else Path(self.url).name

    @property
    def how_to_get(self) -> str:
        """What a user does to have the weights."""
        get = f"fetch {self.url},"
        if self.repository:
            get = f"where there is a network: hf download {self.repository} {self.files[0]};"
        return f"{get} or put the file into a folder that {WEIGHTS_FOLDER} names"


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
        if not path.is_file():
            raise MissingWeights(
                f"backbone '{card.name}': weights {path} are missing",
                "restore the file (git checkout, or reinstall)",
            )
        return path
    if card.path is not None:
        return _find_in_path(card, Path(card.path).expanduser())
    source = Source.of(card)
    fetch = partial(_download, source) if download else None
    places = _places(card, source)
    return search_weights(card, str(source), places, Path.is_file, fetch, source.how_to_get)


def search_weights(
    card: BackboneCard,
    what: str,
    places: Iterable[tuple[str, list[Path]]],
    fits: Callable[[Path], bool],
    fetch: Callable[[], Path] | None,
    how_to_get: str,
) -> Path:
    """The first path that fits; if there is none and the user is not offline, it is fetched.

    Args:
        what: is looked for, in words.
        places: in words, each with the paths to try.
        fetch: downloads it, and returns its path; None if nothing may be downloaded.
        how_to_get: what the user can do if it is missing.

    Raises:
        MissingWeights: no path fits, or the download failed.
    """
    looked = []
    for place, candidates in places:
        looked.append(place)
        if found := next((path for path in candidates if fits(path)), None):
            return found
    missing = f"backbone '{card.name}': {what} is not on this machine"
    if fetch is None or is_offline():
        why = f", and nothing may be fetched ({OFFLINE})" if fetch else ""
        raise MissingWeights(f"{missing}{why}; looked in {', '.join(looked)}", how_to_get)
    try:
        return fetch()
    # The hub raises the errors of its HTTP library, which differs between versions.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].strip(" .")
        raise MissingWeights(f"{missing} and cannot be fetched: {reason}", how_to_get) from None


def check_network() -> None:
    """Tries to reach the hub once; the hub's own client would retry for half a minute.

    Raises:
        OSError: there is no network.
    """
    from huggingface_hub.constants import ENDPOINT

    place = urlsplit(ENDPOINT)
    if place.hostname and not getproxies():
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname, port), timeout=TIMEOUT).close()


def _download(source: Source) -> Path:
    """Downloads a release into the cache in which it is looked for."""
    from open_clip.pretrained import download_pretrained_from_hf, download_pretrained_from_url

    if not source.repository:
        return Path(download_pretrained_from_url(source.url))
    check_network()
    # open_clip prefers the safetensors file of that name, if there is one.
    repository, file = source.repository, source.files[-1]
    return Path(download_pretrained_from_hf(repository, file, cache_dir=str(hub_cache())))


def _find_in_path(card: BackboneCard, path: Path) -> Path:
    """A checkpoint, or the weights in a model's folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingWeights(f"backbone '{card.name}': {path} is missing", "correct the path")
    found = [path / name for name in IN_FOLDER if (path / name).is_file()]
    if not found:
        found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        if len(found) > 1:
            raise BackboneError(
                f"backbone '{card.name}': {path} holds several checkpoints, "
                f"{', '.join(p.name for p in found)}",
                f"rename the right one to {IN_FOLDER[0]}",
            )
    if not found:
        raise MissingWeights(
            f"backbone '{card.name}': {path} holds no weights", f"put {IN_FOLDER[0]} there"
        )
    return found[0]


def _places(card: BackboneCard, source: Source) -> Iterator[tuple[str, list[Path]]]:
    """Where to look, in words, with the files that would do."""
    if root := weights_folder():
        yield f"{WEIGHTS_FOLDER}={root}", [*_in_weights_folder(root, card, source)]
    if source.repository:
        yield str(hub_cache()), _in_hub_cache(hub_cache(), source)
    if source.url:
        cache = Path.home() / ".cache" / "clip"
        names = dict.fromkeys((Path(source.url).name, *card.files))
        yield str(cache), [cache / name for name in names]


def _in_weights_folder(root: Path, card: BackboneCard, source: Source) -> Iterator[Path]:
    stems = [card.name] if "/" not in card.name else []
    stems += [f"{card.config}-{card.tag}"]
    yield from (root / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES)
    if source.repository:
        owner, _, name = source.repository.partition("/")
        for file in source.files:
            yield from (root / owner / name / file, root / name / file)
        yield from _in_hub_cache(root, source)
    if source.url:
        yield root / Path(source.url).name
    yield from (root / name for name in card.files)


def _in_hub_cache(cache: Path, source: Source) -> list[Path]:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(source.repository, f, cache_dir=cache) for f in source.files)
    return [Path(path) for path in found if isinstance(path, str)]
