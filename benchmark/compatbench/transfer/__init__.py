"""Ways of bringing a fitted module to another backbone.

A new one is a class with a card and ``attach``, named in ``TRANSFERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.data.cards import COPIED
from compatbench.errors import CompatbenchError
from compatbench.method import Classifier, Method, MethodCard, Module
from compatbench.transfer.rotation import RotatedBackbone, Rotation, fit_rotation
from compatbench.transfer.words import WordFeatures, save_words, words_hash

# What a transfer needs besides the module.
Access = Literal["none", "words"]

OUTPUT_PLACES = {"feature", "classifier"}
# Normalised features that differ by no more are the same model's; of two models some of the
# thousands of words always differ by far more.
SAME = 1e-3


@dataclass(frozen=True)
class TransferCard:
    """What a transfer is, for lists and for the leaderboard."""

    name: str  # that the command line and results use
    access: Access  # what it needs besides the module; a ranking compares equal access alone
    summary: str  # the idea in one line
    version: int = 1  # raised with every change of the numbers that it gives; part of the key


class Transfer:
    """Attaches modules to a backbone that they were not fitted on.

    ``cache`` is a folder for what is computed once per backbone; None keeps it in memory.
    """

    card: ClassVar[TransferCard]

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache

    def serves(self, method: MethodCard) -> bool:
        """Whether the transfer can change anything for a method's modules."""
        return True

    def fingerprint(self) -> str:
        """Hash of the data that the transfer brings along; part of the key."""
        return ""

    def prepare(self, source: Backbone, target: Backbone, modules: Path | None = None) -> None:
        """Computes what is needed once per pair of backbones, before a cell's clock runs.

        ``modules`` is the folder of the source's modules, for what should lie beside them.
        """

    def attach(
        self,
        method: Method,
        module: Module,
        source: Backbone | None,
        target: Backbone,
        labels: Labels,
    ) -> Classifier:
        """The classifier that the module is on ``target``; by default, the module as it is.

        ``source``, on which it was fitted, is None where it is not at hand and the transfer has
        been given what it needs of it. Raises NotTransferable as ``Method.attach`` does.
        """
        return method.attach(module, target, labels)


class Copied(Transfer):
    """Attaches the module as it is; the headline of the benchmark."""

    card = TransferCard(COPIED, access="none", summary="The module is attached untouched.")


class Words(Transfer):
    """Attaches a module in the coordinates of its source.

    The module and the method stay as they are. The target is rotated instead: with R found from
    the features of one list of words on both backbones, the method is given text and image
    features times Rᵀ; see ``RotatedBackbone``. Nothing of the task is used, and no image.

    Args:
        source_words: the source's word features ``[V, e_s]``, if they are known without it.
        words_of: a backbone's word features ``[V, e]``; computed and cached by default.
    """

    card = TransferCard(
        "words",
        access="words",
        summary="The target's joint space is rotated into the source's, found from words alone.",
    )

    def __init__(
        self,
        cache: Path | None = None,
        source_words: Tensor | None = None,
        words_of: Callable[[Backbone], Tensor] | None = None,
    ) -> None:
        super().__init__(cache)
        self._source_words = source_words
        self.words_of = words_of or WordFeatures(cache).of

    def serves(self, method: MethodCard) -> bool:
        """Whether some part of the module is written in the joint space's coordinates."""
        return bool(OUTPUT_PLACES & set(method.places))

    def fingerprint(self) -> str:
        return words_hash()

    def prepare(self, source: Backbone, target: Backbone, modules: Path | None = None) -> None:
        """Encodes the words, and leaves the source's features beside its modules."""
        words = self.words_of(source)
        self.words_of(target)
        if modules is not None:
            save_words(modules, source, words)

    def attach(
        self,
        method: Method,
        module: Module,
        source: Backbone | None,
        target: Backbone,
        labels: Labels,
    ) -> Classifier:
        words = self._source_words
        if words is None:
            assert source is not None
            words = self.words_of(source)
        rotation = find_rotation(words, self.words_of(target))
        if rotation is None:
            return method.attach(module, target, labels)
        rotated = RotatedBackbone(target, rotation.rotation)
        classify = method.attach(module, rotated, labels)
        if method.image_input(target).kind == "hidden":
            return classify  # runs the rest of the rotated image tower itself
        return lambda features: classify(rotated.rotate(features))


def find_rotation(source: Tensor, target: Tensor) -> Rotation | None:
    """The rotation from the source's word features ``[V, e_s]`` to the target's ``[V, e_t]``.

    None if both are the same model's, so that there is nothing to rotate.
    """
    target = target.to(source)
    if source.shape == target.shape and float((source - target).abs().max()) <= SAME:
        return None
    return fit_rotation(source, target)


TRANSFERS: dict[str, type[Transfer]] = {cls.card.name: cls for cls in (Copied, Words)}


def find_transfer(name: str) -> type[Transfer]:
    """The transfer of this name; an unknown one is an error that lists those there are."""
    if name not in TRANSFERS:
        raise CompatbenchError(f"no transfer is named '{name}'; there are {', '.join(TRANSFERS)}")
    return TRANSFERS[name]
