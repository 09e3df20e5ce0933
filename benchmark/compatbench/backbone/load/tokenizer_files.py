"""Find the files of a tokenizer on this machine, or download them.

CLIP's own tokenizer is part of open_clip. Other models of open_clip, such as SigLIP 2, name a
repository of the Hugging Face hub that has theirs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from compatbench.backbone.load.backbone_names import model_config
from compatbench.backbone.load.find_weights import (
    beside_own_card,
    check_network,
    hub_cache,
    is_offline,
)
from compatbench.backbone.load.hub_errors import explain_hub_error
from compatbench.data.cards import BackboneCard
from compatbench.data.cards.yaml_file import WEIGHTS_FOLDER
from compatbench.errors import BackboneError, MissingWeights
from compatbench.files.project_folders import tasks_folder

# A repository holds one of the first ones, and settings beside it.
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
PATTERNS = ("*token*", "*.model", "*.txt", "vocab.json", "config.json")


def tokenizer_repository(card: BackboneCard) -> str:
    """Return the hub's repository that has a model's tokenizer, apart from its weights; else ''."""
    if card.provider != "open_clip" or card.tokenizer is not None or card.config is None:
        return ""
    text: dict[str, Any] = model_config(card).get("text_cfg", {})
    return text.get("hf_tokenizer_name", "")


def find_merges(card: BackboneCard) -> Path | None:
    """Return the file of byte-pair merges that a card names, beside it or in tasks/; else None.

    Raises:
        BackboneError: the file is missing.
    """
    if card.tokenizer is None:
        return None
    path = beside_own_card(card, card.tokenizer)
    if path is None or not path.is_file():
        path = tasks_folder() / card.tokenizer
    if not path.is_file():
        raise BackboneError(
            f"backbone '{card.name}': tokenizer {path} is missing",
            "restore the file (git checkout, or reinstall)",
        )
    return path


def find_tokenizer(repository: str) -> Path | None:
    """Return the vocabulary of a tokenizer in a cache of the hub; None if it is in none."""
    from huggingface_hub import try_to_load_from_cache

    caches = [hub_cache()]
    folder = os.environ.get(WEIGHTS_FOLDER)
    if folder:
        caches.insert(0, Path(folder).expanduser())
    for cache in caches:
        for name in VOCABULARIES:
            path = try_to_load_from_cache(repository, name, cache_dir=cache)
            if isinstance(path, str):
                return Path(path)
    return None


def how_to_fetch(repository: str) -> str:
    """Return the command that downloads a tokenizer on a machine with a network."""
    return f"hf download {repository} --include '*token*' --include '*.model'"


def locate_tokenizer(card: BackboneCard, download: bool = True) -> Path | None:
    """Return the folder of the tokenizer that a model needs beside its weights; None if none.

    Args:
        download: fetch it if it is not on this machine.

    Raises:
        MissingWeights: the tokenizer is not here and cannot be downloaded.
    """
    repository = tokenizer_repository(card)
    if not repository:
        return None
    path = find_tokenizer(repository)
    if path is not None:
        return path.parent
    from huggingface_hub import snapshot_download

    problem = f"backbone '{card.name}': the tokenizer of {repository} is not on this machine"
    fix = f"where there is a network: {how_to_fetch(repository)}"
    if not download or is_offline():
        raise MissingWeights(problem, fix)
    try:
        check_network()
        snapshot_download(repository, cache_dir=hub_cache(), allow_patterns=[*PATTERNS])
    # The hub raises the errors of its HTTP library, which differs between versions.
    except Exception as error:
        reason = explain_hub_error(error, repository, "vocabulary")
        raise MissingWeights(f"{problem} and cannot be fetched: {reason}", fix) from None
    path = find_tokenizer(repository)
    if path is None:
        raise MissingWeights(f"{problem}; the repository holds no vocabulary", fix)
    return path.parent
