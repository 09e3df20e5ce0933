"""The classes and functions that a transfer is written with.

A transfer moves a module to another backbone. It is one file: a class with a ``card`` and
``attach``. Its card lists its needs besides the module and the target (``access``). It receives
exactly these, in a ``TransferData``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, get_args

import torch
from torch import Tensor

from compatbench.backbone import Backbone, ImageInput, Labels, RotatedBackbone
from compatbench.data.cards import COPIED
from compatbench.data.labels import ACCESS, Access
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.method import (
    Classifier,
    FewShotData,
    Method,
    MethodCard,
    MethodConfig,
    Module,
    Place,
    Rows,
)

__all__ = [
    "ACCESS", "ANYWHERE", "COPIED", "JOINT_SPACE", "Access", "ModulePair", "OldAnswers",
    "Transfer", "TransferCard", "TransferData", "UndeclaredAccess", "Unlabelled", "WordPair",
    "attach_rotated",
]  # fmt: skip

ANYWHERE: frozenset[Place] = frozenset(get_args(Place))
# The places of modules that are written in the coordinates of the embedding space.
JOINT_SPACE: frozenset[Place] = frozenset({"feature", "classifier"})


@dataclass(frozen=True)
class TransferCard:
    """The facts about a transfer that lists and the leaderboard show.

    Attributes:
        name: the name that the command line and results use; settings follow after ``+``.
        title: the name as its authors write it.
        paper: where it was published; empty if it has no paper of its own.
        access: its needs besides the module and the target; a ranking compares only transfers of
            equal access. ``words``: features of a list of words on both backbones;
            ``unlabelled``: the task's training images without labels, encoded by both;
            ``labels``: k labelled images of each class on the target; ``old model``: the
            module's logits on the source for every test image; ``source weights``: the source
            backbone itself, beside the target; ``modules``: the method's modules of the suite's
            other tasks, fitted on both backbones.
        summary: the idea in one line.
        takes: the places at which a module may act; by default any.
        settings: the names that may follow the transfer's, each with the fields of ``Config``
            that it sets.
        plain: True if labelled images come only under the plain view, not the training's.
        version: raised with every change of the numbers that it gives; part of the key.
        files: data that it reads, as paths from its own file; part of the key of a transfer from
            outside.
    """

    name: str
    title: str
    paper: str
    access: Set[Access]
    summary: str
    takes: Set[Place] = ANYWHERE
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    plain: bool = False
    version: int = 1
    files: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Return the name in keys."""
        return self.name


class UndeclaredAccess(CompatbenchError):
    """A transfer has used data that its card does not declare."""


class WordPair(NamedTuple):
    """Normalised text features of the same V words."""

    source: Tensor  # [V, e_s]
    target: Tensor  # [V, e_t]


@dataclass(frozen=True)
class OldAnswers:
    """Logits of the old model, with the module, for some images; ``[batch, C]`` each."""

    logits: Tensor  # of the module attached to the source
    zero_shot: Tensor  # of the source's own zero-shot classifier, at its logit scale

    def __getitem__(self, rows: Tensor) -> OldAnswers:
        """Return the logits of the images with these indices, ``[n]``."""
        rows = rows.to(self.logits.device)
        return OldAnswers(self.logits[rows], self.zero_shot[rows])


@dataclass(frozen=True)
class Unlabelled:
    """The task's N training images without labels, in an order that the seed draws."""

    source: Tensor  # features on the source, not normalised, ``[N, e_s]``
    target: Tensor  # features on the target, not normalised, ``[N, e_t]``
    inputs: Rows  # the input that the transfer's ``image_input`` names, on the target, [N, ...]
    old: OldAnswers  # of the module on the source
    source_scale: float = 1.0  # the source's factor on cosine similarities
    # The input that the method's ``image_input`` names, on the source; only with the access
    # ``source weights``.
    old_inputs: Rows | None = None


class ModulePair(NamedTuple):
    """Modules of another task, of the same method, shots and seed, fitted on each backbone."""

    source: Module
    target: Module
    classes: int  # of that task


class TransferData:
    """The data of a transfer besides the module and the target, as declared on its card.

    Any other data raises ``UndeclaredAccess``.

    Attributes:
        seed: the cell's seed; the only source of randomness.
        words: features of the word list on both backbones.
        unlabelled: the task's training images without labels.
        labels: k labelled images of each class on the target, with validation images as for a fit.
        source: the backbone that the module was fitted on.
        modules: modules of other tasks on both backbones.
    """

    words: WordPair
    unlabelled: Unlabelled
    labels: FewShotData
    source: Backbone
    modules: tuple[ModulePair, ...]

    def __init__(self, transfer: Transfer, seed: int = 0, **given: Any) -> None:
        """Keep what is given: ``words``, ``unlabelled``, ``labels``, ``source``, ``modules``."""
        self.seed = seed
        self._name = transfer.card.name
        self._access = transfer.card.access
        self._given = given

    def __getattr__(self, name: str) -> Any:
        """Return the data of this name.

        Raises:
            UndeclaredAccess: the transfer's card does not declare it.
        """
        if name not in TransferData.__annotations__:
            raise AttributeError(name)
        access = "source weights" if name == "source" else name
        if access not in self._access:
            raise UndeclaredAccess(
                f"transfer '{self._name}' uses '{access}', which its card does not declare; "
                "add it to 'access', or do without it"
            )
        return self._given[name]

    def generator(self) -> torch.Generator:
        """Return a new source of random numbers, which draws the same each time."""
        return torch.Generator().manual_seed(self.seed)


class Transfer:
    """A procedure that attaches modules to a backbone that they were not fitted on.

    A whole transfer file::

        from compatbench.method import CosineClassifier
        from compatbench.method.transfer import JOINT_SPACE, Transfer, TransferCard


        class Halfway(Transfer):
            card = TransferCard(
                name="halfway",
                title="Halfway",
                paper="",
                access=frozenset(),
                summary="The mean of the module's logits and of zero-shot's.",
                takes=JOINT_SPACE,
            )

            def attach(self, method, module, target, labels, data):
                classify = method.attach(module, target, labels)
                zero_shot = CosineClassifier(target.zero_shot(labels), target.logit_scale)
                return lambda features: (classify(features) + zero_shot(features)) / 2
    """

    card: ClassVar[TransferCard]

    class Config(MethodConfig):
        """Settings. A transfer with ``labels`` has ``shots``, their number for each class."""

    def __init__(self, config: MethodConfig | None = None) -> None:
        self.config: Any = self.Config() if config is None else config

    def serves(self, method: MethodCard) -> bool:
        """Return True if the transfer can change anything for a method's modules."""
        return not self.card.takes.isdisjoint(method.places)

    def require(self, method: MethodCard) -> None:
        """Raise ``CompatbenchError`` for a method whose modules the transfer cannot take."""
        if self.card.takes.isdisjoint(method.places):
            raise CompatbenchError(
                f"transfer '{self.card.name}' takes modules that act at "
                f"{' or '.join(sorted(self.card.takes))}; those of '{method.name}' act at "
                f"{' and '.join(method.places)}: choose another transfer"
            )

    def image_input(self, method: Method, target: Backbone) -> ImageInput:
        """Return the input of the classifier on the target; by default, the method's."""
        return method.image_input(target)

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        """Return the module for ``target``; only a transfer that makes one defines this."""
        raise NotImplementedError

    def attach(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Classifier:
        """Return the module's classifier on ``target``, by default that of ``carry``.

        With the access ``old model``, the classifier's second argument is the ``OldAnswers`` for
        the same images. Gradients are off; a transfer that trains turns them on
        (``torch.enable_grad``).

        Raises:
            NotTransferable: see ``Method.attach``.
        """
        carried = self.carry(method, module, target, labels, data)
        return method.attach(carried, target, labels)


def attach_rotated(
    method: Method,
    module: Module,
    target: Backbone,
    labels: Labels,
    rotation: Tensor,
    see: Callable[[Tensor], Tensor] | None = None,
) -> Classifier:
    """Return the classifier of a module on a target in the coordinates of a rotation.

    Args:
        method: the module's method.
        module: the module, in the source's coordinates.
        target: the target.
        labels: class names and templates.
        rotation: R, ``[e_s, e_t]``.
        see: maps the target's image features ``[..., e_t]`` to the module's ``[..., e_s]``; by
            default the rotation.

    Raises:
        NotTransferable: see ``Method.attach``; or ``see`` is given, but the method computes its
            features itself.
    """
    rotated = RotatedBackbone(target, rotation)
    if method.image_input(target).in_joint_space:
        classify = method.attach(module, rotated, labels)
        to_module = see or rotated.rotate
        return lambda features: classify(to_module(features))
    if see is not None:
        raise NotTransferable(
            "the method runs the image tower itself, so features cannot be mapped"
        )
    return method.attach(module, rotated, labels)  # runs the rest of the rotated image tower
