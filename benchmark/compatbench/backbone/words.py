"""The list of words, and its text features on backbones; no task and no image is involved."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.cache_files import FEATURES, read_entry, write_entry
from compatbench.data.encoding import arithmetic
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json
from compatbench.files.tensors import load_tensors, save_tensors
from compatbench.messages import first_line

TEMPLATE = "a photo of a {}."
SCHEMA = "compatbench-words-1"


@lru_cache(maxsize=1)
def load_words() -> tuple[str, ...]:
    """Return the word list, in alphabetical order; ``words.txt`` names its source and licence."""
    path = resources.files("compatbench.backbone").joinpath("words.txt")
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, ValueError) as error:
        raise CompatbenchError(
            f"cannot read {path}: {first_line(error)}; install compatbench again"
        ) from None
    return tuple(line for line in lines if not line.startswith("#"))


def words_hash() -> str:
    """Return the hash of the word list and of the prompt around each word."""
    return sha256_json([TEMPLATE, load_words()])


def encode_words(backbone: Backbone, words: tuple[str, ...] | None = None) -> Tensor:
    """Return text features of words in ``a photo of a {}.``, normalised, ``[V, e]``.

    Without ``words``, use the word list.
    """
    if words is None:
        words = load_words()
    texts = [TEMPLATE.format(word) for word in words]
    return F.normalize(backbone.encode_texts(texts), dim=-1)


class WordFeatures:
    """Text features of the word list by backbone, cached beside image features.

    Without a cache folder they are kept only in memory.
    """

    def __init__(self, cache: Path | None) -> None:
        self._folder = None if cache is None else cache / FEATURES
        self._memory: dict[str, Tensor] = {}

    def of(self, backbone: Backbone) -> Tensor:
        """Return the features, normalised, ``[V, e]``, on the backbone's device."""
        facts = [backbone.weights_key, backbone.card.config, arithmetic(backbone), ENGINE_VERSION]
        key = sha256_json(["words", words_hash(), *facts])
        if key not in self._memory:
            self._memory[key] = self._read(backbone, key)
        return self._memory[key].to(backbone.device)

    def _read(self, backbone: Backbone, key: str) -> Tensor:
        if self._folder is None:
            return encode_words(backbone).cpu()
        path = self._folder / key[:2] / f"{key}.safetensors"
        features = read_entry(path, warn=True)
        if features is not None:
            return features
        features = encode_words(backbone).cpu()
        write_entry(path, features, {"backbone": backbone.name, "task": "words"})
        return features


def save_words(folder: Path, source: Backbone, features: Tensor) -> None:
    """Save a source's word features ``[V, e]`` beside the modules that were fitted on it.

    With them the transfer ``words`` needs no source model.
    """
    about = {"source": source.name, "weights": source.weights_key, "dtype": str(source.dtype)}
    path = folder / f"words-{sha256_json([about, words_hash()])[:16]}.safetensors"
    if not path.is_file():
        save_tensors(path, {"words": features}, SCHEMA, {**about, "words": words_hash()})


def find_words(module: Path, source: str) -> Tensor | None:
    """Return the word features of a module's source, from beside it or one folder up, ``[V, e]``.

    Return None if there are none.

    Raises:
        CompatbenchError: a file is damaged, or was made from another word list.
    """
    for folder in (module.parent, module.parent.parent):
        for path in sorted(folder.glob("words-*.safetensors")):
            tensors, about = load_tensors(path, SCHEMA, "file of word features")
            if about.get("words") != words_hash() or "words" not in tensors:
                raise CompatbenchError(
                    f"{path} was made from another word list than this version's; run the module's "
                    "suite again, or leave the file out where the source model is at hand"
                )
            if about.get("source") == source:
                return tensors["words"]
    return None
