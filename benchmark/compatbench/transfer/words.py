"""The word list through which two joint spaces are compared, and its text features."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.cache_files import FEATURES, describe_entry, read_entry, write_entry
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.hashes import sha256_json
from compatbench.files.tensors import load_tensors, save_tensors

TEMPLATE = "a photo of a {}."
SCHEMA = "compatbench-words-1"
PART = 512  # words that are encoded together


@lru_cache(maxsize=1)
def load_words() -> tuple[str, ...]:
    """The word list, in alphabetical order; source and licence stand in ``words.txt``."""
    text = resources.files("compatbench.transfer").joinpath("words.txt").read_text("ascii")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def words_hash() -> str:
    """Hash of the word list and of the prompt that the words stand in."""
    return sha256_json([TEMPLATE, load_words()])


def encode_words(backbone: Backbone, words: tuple[str, ...] | None = None) -> Tensor:
    """Text features of the words in ``a photo of a {}.``, normalised, ``[V, e]``.

    Args:
        words: others than the word list.

    Raises:
        CompatbenchError: a word does not fit the text tower's context.
    """
    texts = [TEMPLATE.format(word) for word in (load_words() if words is None else words)]
    # Thousands of embedded prompts are not worth a backbone's memory.
    once = copy.copy(backbone)
    vars(once)["_text_prompts"] = {}
    parts = []
    with torch.no_grad():
        for start in range(0, len(texts), PART):
            prompts = once.text_prompts(tuple(texts[start : start + PART]))
            parts.append(F.normalize(once.encode_prompts(prompts), dim=-1))
    return torch.cat(parts)


class WordFeatures:
    """Text features of the word list by backbone, kept in the cache beside image features.

    Args:
        cache: the cache's folder; None keeps them in memory alone.
    """

    def __init__(self, cache: Path | None) -> None:
        self._folder = None if cache is None else cache / FEATURES
        self._memory: dict[str, Tensor] = {}

    def of(self, backbone: Backbone) -> Tensor:
        """The features, normalised, ``[V, e]``, on the backbone's device.

        Raises:
            CompatbenchError: the cache cannot be written.
        """
        key = _key(backbone)
        if key not in self._memory:
            self._memory[key] = self._read(backbone, key)
        return self._memory[key].to(backbone.device)

    def _read(self, backbone: Backbone, key: str) -> Tensor:
        if self._folder is None:
            return encode_words(backbone).cpu()
        path = self._folder / key[:2] / f"{key}.safetensors"
        if path.is_file():
            if (features := read_entry(path)) is not None:
                return features
            warnings.warn(
                f"{path} is damaged and is computed again", CompatbenchWarning, stacklevel=3
            )
        features = encode_words(backbone).cpu()
        write_entry(path, features, describe_entry(backbone.name, "words", len(features), 0))
        return features


def _key(backbone: Backbone) -> str:
    return sha256_json(
        [
            "words",
            words_hash(),
            backbone.weights_key,
            backbone.card.config,
            str(backbone.dtype),
            ENGINE_VERSION,
        ]
    )


def save_words(path: Path, features: Tensor, about: Mapping[str, Any]) -> None:
    """Writes a source's word features ``[V, e]``, so that modules need no source to be turned.

    Raises:
        CompatbenchError: the folder cannot be written.
    """
    save_tensors(path, {"words": features}, SCHEMA, {**about, "words": words_hash()})


def read_words(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """What ``save_words`` wrote: the features ``[V, e]`` and what is said of them.

    Raises:
        CompatbenchError: the file is missing or damaged, or was made from another word list.
    """
    tensors, about = load_tensors(path, SCHEMA, "file of word features")
    if about.get("words") != words_hash() or "words" not in tensors:
        raise CompatbenchError(
            f"{path} was made from another word list than this version's; run the module's suite "
            "again, or leave the file out where the source model is at hand"
        )
    return tensors["words"], about
