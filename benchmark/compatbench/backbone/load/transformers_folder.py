"""The folder of a model of transformers: configuration, weights and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from compatbench.backbone.load.environment import WEIGHTS_FOLDER, hub_cache, weights_folder
from compatbench.backbone.load.weights_file import check_network, search_weights
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
    return search_weights(
        card,
        what=card.repository,
        places=_places(card),
        fits=lambda folder: (folder / CONFIG).is_file() and bool(_weights_in(folder)),
        fetch=partial(_download, card.repository) if download else None,
        how_to_get=f"where there is a network: hf download {card.repository}; or put its files "
        f"into a folder {card.repository} below one that {WEIGHTS_FOLDER} names",
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


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    check_network()
    for weights in _WEIGHTS:
        patterns = [*_BESIDE, weights]
        found = snapshot_download(repository, cache_dir=hub_cache(), allow_patterns=patterns)
        if _weights_in(Path(found)):
            return Path(found)
    raise FileNotFoundError("the repository holds no weights")
