"""What a transfer is, and the plain one: the module attached untouched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from compatbench.backbone import Backbone, Labels
from compatbench.data.cards import COPIED
from compatbench.method import Classifier, Method, MethodCard, Module

# What a transfer needs besides the module.
Access = Literal["none", "words"]


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
