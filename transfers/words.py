"""The transfer ``words``: the target is turned into the source's joint space, found from words."""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib import resources
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.data.cache_files import FEATURES, read_entry, write_entry
from compatbench.data.encoding import arithmetic
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.hashes import sha256_json
from compatbench.files.tensors import load_tensors, save_tensors
from compatbench.messages import first_line
from compatbench.method import Classifier, Method, MethodCard, MethodConfig, Module
from compatbench.method.transfer import JOINT_SPACE, Transfer, TransferCard, TransferData
from compatbench.transfers._shared.rotation import Rotation, attach_rotated, fit_rotation

# Normalised features that differ by no more are the same model's; of two models some of the
# thousands of words always differ by far more.
SAME = 1e-3
TEMPLATE = "a photo of a {}."
SCHEMA = "compatbench-words-1"


class Words(Transfer):
    """Attaches a module in the coordinates of its source.

    The module and the method stay as they are. The target is rotated instead: with R found from
    the features of one list of words on both backbones, the method is given text and image
    features times Rᵀ; see ``RotatedBackbone``. Nothing of the task is used, and no image.

    R is found from centred features, and by ``raw`` from those as they are; means are not moved.
    """

    card = TransferCard(
        name="words",
        title="Turned by words",
        paper="",
        access={"words"},
        summary="The target's joint space is rotated into the source's, found from words alone.",
        settings={"raw": {"centred": False}},
    )

    class Config(MethodConfig):
        centred: bool = True

    def serves(self, method: MethodCard) -> bool:
        """Whether some part of the module is written in the joint space's coordinates.

        A method that reads words itself has turned it already.
        """
        return not JOINT_SPACE.isdisjoint(method.places) and "words" not in method.needs

    def attach(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Classifier:
        rotation = find_rotation(*data.words, centred=self.config.centred)
        if rotation is None:
            return method.attach(module, target, labels)
        return attach_rotated(method, module, target, labels, rotation.rotation)


def find_rotation(source: Tensor, target: Tensor, centred: bool = True) -> Rotation | None:
    """The rotation from the source's word features ``[V, e_s]`` to the target's ``[V, e_t]``.

    None if both are the same model's, so that there is nothing to rotate.
    """
    target = target.to(source)
    if source.shape == target.shape and float((source - target).abs().max()) <= SAME:
        return None
    return fit_rotation(source, target, centred)


@lru_cache(maxsize=1)
def load_words() -> tuple[str, ...]:
    """The word list, in alphabetical order; source and licence stand in ``words.txt``."""
    path = resources.files("compatbench.transfers._shared").joinpath("words.txt")
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, ValueError) as error:
        raise CompatbenchError(
            f"cannot read {path}: {first_line(error)}; install compatbench again"
        ) from None
    return tuple(line for line in lines if not line.startswith("#"))


def words_hash() -> str:
    """Hash of the word list and of the prompt that the words stand in."""
    return sha256_json([TEMPLATE, load_words()])


def encode_words(backbone: Backbone, words: tuple[str, ...] | None = None) -> Tensor:
    """Text features of the words in ``a photo of a {}.``, normalised, ``[V, e]``."""
    texts = [TEMPLATE.format(word) for word in (load_words() if words is None else words)]
    return F.normalize(backbone.encode_texts(texts), dim=-1)


class WordFeatures:
    """Text features of the word list by backbone, kept in a cache beside image features.

    Without a cache's folder they are kept in memory alone.
    """

    def __init__(self, cache: Path | None) -> None:
        self._folder = None if cache is None else cache / FEATURES
        self._memory: dict[str, Tensor] = {}

    def of(self, backbone: Backbone) -> Tensor:
        """The features, normalised, ``[V, e]``, on the backbone's device."""
        facts = [backbone.weights_key, backbone.card.config, arithmetic(backbone), ENGINE_VERSION]
        key = sha256_json(["words", words_hash(), *facts])
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
        write_entry(path, features, {"backbone": backbone.name, "task": "words"})
        return features


def save_words(folder: Path, source: Backbone, features: Tensor) -> None:
    """Leaves a source's word features ``[V, e]`` beside the modules that were fitted on it.

    With them the transfer needs no source model.
    """
    about = {"source": source.name, "weights": source.weights_key, "dtype": str(source.dtype)}
    path = folder / f"words-{sha256_json([about, words_hash()])[:16]}.safetensors"
    if not path.is_file():
        save_tensors(path, {"words": features}, SCHEMA, {**about, "words": words_hash()})


def find_words(module: Path, source: str) -> Tensor | None:
    """The word features of a module's source that lie beside it, or one folder up, ``[V, e]``.

    A file that is damaged, or was made from another word list, is an error.
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
