"""The files of a model of transformers: a folder with configuration, weights and tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from compatbench.backbone.load.fetch import check_network
from compatbench.backbone.load.find import WEIGHTS_FOLDER, hub_cache
from compatbench.backbone.load.switches import OFFLINE, is_offline
from compatbench.data.cards import BackboneCard
from compatbench.errors import MissingWeights

CONFIG = "config.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_BESIDE = ("*.json", "*.txt", "*.model")


def model_files(card: BackboneCard, download: bool = False) -> list[Path]:
    """All files of the model that decide its features, weights first.

    Raises:
        MissingWeights: the folder is not on this machine, or holds no weights.
    """
    folder = model_folder(card, download)
    weights = next((f for pattern in _WEIGHTS if (f := sorted(folder.glob(pattern)))), [])
    if not weights:
        raise MissingWeights(
            f"backbone '{card.name}': {folder} holds no weights",
            "put model.safetensors there",
        )
    return [*weights, *(path for pattern in _BESIDE for path in sorted(folder.glob(pattern)))]


def model_folder(card: BackboneCard, download: bool = False) -> Path:
    """The folder of a card's model: its own path, ``COMPATBENCH_WEIGHTS``, the hub's cache.

    Raises:
        MissingWeights: it is nowhere, or cannot be fetched.
    """
    if card.path is not None:
        folder = Path(card.path).expanduser()
        if not (folder / CONFIG).is_file():
            raise MissingWeights(
                f"backbone '{card.name}': {folder / CONFIG} is missing", "mend the path"
            )
        return folder
    looked = []
    for place, folders in _places(card):
        looked.append(place)
        for folder in folders:
            if (folder / CONFIG).is_file() and any(
                path for pattern in _WEIGHTS for path in folder.glob(pattern)
            ):
                return folder
    if download and not is_offline():
        return _fetch(card)
    why = f", and nothing may be fetched ({OFFLINE})" if download else ""
    raise MissingWeights(
        f"backbone '{card.name}': {card.repository} is not on this machine{why}; "
        f"looked in {', '.join(looked)}",
        how_to_get(card),
    )


def how_to_get(card: BackboneCard) -> str:
    """What a user does to have the model."""
    return (
        f"where there is a network: hf download {card.repository}; or put its files into a folder "
        f"{card.repository} below one that {WEIGHTS_FOLDER} names"
    )


def _places(card: BackboneCard) -> Iterator[tuple[str, list[Path]]]:
    from huggingface_hub import try_to_load_from_cache

    roots = [hub_cache()]
    if named := os.environ.get(WEIGHTS_FOLDER):
        root = Path(named).expanduser()
        owner, _, name = card.repository.partition("/")
        folders = [root / owner / name, root / name]
        if "/" not in card.name and ":" not in card.name:
            folders.insert(0, root / card.name)
        yield f"{WEIGHTS_FOLDER}={root}", folders
        roots.append(root)
    for root in roots:
        found = try_to_load_from_cache(card.repository, CONFIG, cache_dir=root)
        yield str(root), [Path(found).parent] if isinstance(found, str) else []


def _fetch(card: BackboneCard) -> Path:
    from huggingface_hub import snapshot_download

    try:
        check_network()
        for weights in _WEIGHTS:
            patterns = [*_BESIDE, weights]
            found = snapshot_download(
                card.repository, cache_dir=hub_cache(), allow_patterns=patterns
            )
            if any(Path(found).glob(weights)):
                return Path(found)
    # The hub raises what its transport raises, which differs between its versions.
    except Exception as error:
        text = str(error).splitlines()[0].strip(" .") if str(error) else type(error).__name__
        raise MissingWeights(
            f"backbone '{card.name}': {card.repository} is not on this machine and cannot be "
            f"fetched: {text}",
            how_to_get(card),
        ) from None
    raise MissingWeights(
        f"backbone '{card.name}': {card.repository} holds no weights", "name another repository"
    )
