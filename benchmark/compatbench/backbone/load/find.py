"""Where the weights of a backbone are: a path, a folder of weights, the caches, the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compatbench.backbone.load.releases import release_facts
from compatbench.backbone.load.switches import OFFLINE, is_offline
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError, MissingWeights
from compatbench.files.project_folders import tasks_folder

WEIGHTS_FOLDER = "COMPATBENCH_WEIGHTS"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
IN_REPOSITORY = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
IN_FOLDER = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)


@dataclass(frozen=True)
class Source:
    """Where open_clip's release of a card is to be had.

    Attributes:
        repository: on the Hugging Face hub; may be empty.
        files: names of the weights there, the best first.
        url: of a file elsewhere; may be empty.
    """

    repository: str
    files: tuple[str, ...]
    url: str

    @classmethod
    def of(cls, card: BackboneCard) -> Source:
        facts: dict[str, Any] = release_facts(card)
        owner, _, rest = facts.get("hf_hub", "").partition("/")
        name, _, file = rest.partition("/")
        repository = f"{owner}/{name}" if name else card.repository
        files = IN_REPOSITORY
        if file:
            files = tuple(dict.fromkeys((str(Path(file).with_suffix(".safetensors")), file)))
        return cls(repository, files, facts.get("url", ""))


def find_weights(card: BackboneCard, download: bool = False) -> Path:
    """The file that holds a card's weights.

    In this order: the card's own file or path; ``COMPATBENCH_WEIGHTS``; the cache of the
    Hugging Face hub; ``~/.cache/clip``; and, if asked to and not offline, the network.

    Raises:
        MissingWeights: it is nowhere, or cannot be fetched.
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
        return _in_path(card, Path(card.path).expanduser())
    source = Source.of(card)
    looked: list[str] = []
    for place, candidates in _places(card, source):
        looked.append(place)
        for path in candidates:
            if path.is_file():
                return path
    if download and not is_offline():
        from compatbench.backbone.load.fetch import fetch_weights

        return fetch_weights(card, source, hub_cache())
    what = source.files[0] if source.repository else Path(source.url).name
    whence = f" of {source.repository}" if source.repository else ""
    why = f", and nothing may be fetched ({OFFLINE})" if download and is_offline() else ""
    raise MissingWeights(
        f"backbone '{card.name}': {what}{whence} is not on this machine{why}; "
        f"looked in {', '.join(looked)}",
        how_to_get(source),
    )


def how_to_get(source: Source) -> str:
    """What a user does to have the weights."""
    folder = f"or put the file into a folder that {WEIGHTS_FOLDER} names"
    if source.repository:
        return (
            f"where there is a network: hf download {source.repository} {source.files[0]}; {folder}"
        )
    return f"fetch {source.url}, {folder}"


def hub_cache() -> Path:
    """The cache of the Hugging Face hub, by its own variables, as they are now."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "huggingface" / "hub"


def _in_path(card: BackboneCard, path: Path) -> Path:
    """A checkpoint, or the weights in a model's folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingWeights(f"backbone '{card.name}': {path} is missing", "mend the path")
    found = [path / name for name in IN_FOLDER if (path / name).is_file()]
    if not found:
        found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        if len(found) > 1:
            raise BackboneError(
                f"backbone '{card.name}': {path} holds several checkpoints, "
                f"{', '.join(p.name for p in found)}",
                f"call the right one {IN_FOLDER[0]}",
            )
    if not found:
        raise MissingWeights(
            f"backbone '{card.name}': {path} holds no weights", f"put {IN_FOLDER[0]} there"
        )
    return found[0]


def _places(card: BackboneCard, source: Source) -> Iterator[tuple[str, list[Path]]]:
    """Where to look, in words, with the files that would do."""
    if folder := os.environ.get(WEIGHTS_FOLDER):
        root = Path(folder).expanduser()
        yield f"{WEIGHTS_FOLDER}={root}", [*_in_weights_folder(root, card, source)]
    if source.repository:
        cache = hub_cache()
        yield str(cache), _in_hub_cache(cache, source)
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
