"""The folder of a model of transformers: configuration, weights and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from compatbench.backbone.load.environment import (
    OFFLINE,
    WEIGHTS_FOLDER,
    hub_cache,
    is_offline,
    weights_folder,
)
from compatbench.backbone.load.weights_file import check_network, download_failure
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
    weights = _weights_in(folder)
    if not weights:
        raise MissingWeights(
            f"backbone '{card.name}': {folder} holds no weights", "put model.safetensors there"
        )
    return [*weights, *(path for pattern in _BESIDE for path in sorted(folder.glob(pattern)))]


def model_folder(card: BackboneCard, download: bool = False) -> Path:
    """The folder of a card's model: its own path, ``COMPATBENCH_WEIGHTS``, the hub's cache.

    Raises:
        MissingWeights: the folder is in none of these places, or the download failed.
    """
    if card.path is not None:
        folder = Path(card.path).expanduser()
        if not (folder / CONFIG).is_file():
            raise MissingWeights(
                f"backbone '{card.name}': {folder / CONFIG} is missing", "correct the path"
            )
        return folder
    looked = []
    for place, folders in _places(card):
        looked.append(place)
        for folder in folders:
            if (folder / CONFIG).is_file() and _weights_in(folder):
                return folder
    if download and not is_offline():
        return _download(card)
    why = f", and nothing may be fetched ({OFFLINE})" if download else ""
    raise MissingWeights(
        f"backbone '{card.name}': {card.repository} is not on this machine{why}; "
        f"looked in {', '.join(looked)}",
        _how_to_get(card),
    )


def _how_to_get(card: BackboneCard) -> str:
    return (
        f"where there is a network: hf download {card.repository}; or put its files into a folder "
        f"{card.repository} below one that {WEIGHTS_FOLDER} names"
    )


def _weights_in(folder: Path) -> list[Path]:
    """The weights files, safetensors if there are any."""
    return next((found for p in _WEIGHTS if (found := sorted(folder.glob(p)))), [])


def _places(card: BackboneCard) -> Iterator[tuple[str, list[Path]]]:
    """Where to look, in words, with the folders that would do."""
    from huggingface_hub import try_to_load_from_cache

    roots = [hub_cache()]
    if root := weights_folder():
        own = [root / card.name] if "/" not in card.name and ":" not in card.name else []
        name = card.repository.rpartition("/")[-1]
        yield f"{WEIGHTS_FOLDER}={root}", [*own, root / card.repository, root / name]
        roots.append(root)
    for root in roots:
        found = try_to_load_from_cache(card.repository, CONFIG, cache_dir=root)
        yield str(root), [Path(found).parent] if isinstance(found, str) else []


def _download(card: BackboneCard) -> Path:
    from huggingface_hub import snapshot_download

    try:
        check_network()
        for weights in _WEIGHTS:
            folder = snapshot_download(
                card.repository, cache_dir=hub_cache(), allow_patterns=[*_BESIDE, weights]
            )
            if _weights_in(Path(folder)):
                return Path(folder)
    # The hub raises the errors of its HTTP library, which differs between versions.
    except Exception as error:
        raise download_failure(card.name, card.repository, error, _how_to_get(card)) from None
    raise MissingWeights(
        f"backbone '{card.name}': {card.repository} holds no weights", "name another repository"
    )
