"""What a transfer, which moves a module to another backbone, is made of.

A transfer is one file: a class with a ``card`` and ``attach``. Its card says what it needs besides
the module and the target (``access``). It is given that in a ``TransferData``, and nothing else.
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
    "ACCESS", "ANYWHERE", "COPIED", "JOINT_SPACE", "Access", "OldAnswers",
    "Transfer", "TransferCard", "TransferData", "UndeclaredAccess", "Unlabelled", "WordPair",
    "attach_rotated",
]  # fmt: skip

ANYWHERE: frozenset[Place] = frozenset(get_args(Place))
# Which part of the joint space's coordinates a module is written in.
JOINT_SPACE: frozenset[Place] = frozenset({"feature", "classifier"})


@dataclass(frozen=True)
class TransferCard:
    """What a transfer is, for lists and for the leaderboard.

    Attributes:
        name: that the command line and results use; settings follow after ``+``.
        title: the name as its authors write it.
        paper: where it was published; empty for what has no paper of its own.
        access: what it needs besides the module and the target; a ranking compares equal access
            alone. ``words``: features of a list of words on both backbones; ``unlabelled``: the
            task's training images without labels, seen by both; ``labels``: k labelled images of
            each class on the target; ``old model``: the module's logits on the source for every
            test image; ``source weights``: the source backbone itself, beside the target.
        summary: the idea in one line.
        takes: the places at which a module may act; by default any.
        settings: the names that may follow the transfer's, with what each sets of ``Config``.
        plain: whether it is given labelled images under the plain view alone, not the training's.
        version: raised with every change of the numbers that it gives; part of the key.
        files: data that it reads, as paths from its own file; part of the key of one from outside.
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
        """The name in keys."""
        return self.name


class UndeclaredAccess(CompatbenchError):
    """A transfer has reached for what its card does not declare."""


class WordPair(NamedTuple):
    """Normalised text features of the same V words."""

    source: Tensor  # [V, e_s]
    target: Tensor  # [V, e_t]


@dataclass(frozen=True)
class OldAnswers:
    """What the old model, with the module, says of some images; ``[batch, C]`` each."""

    logits: Tensor  # of the module attached to the source
    zero_shot: Tensor  # of the source's own zero-shot classifier, at its logit scale

    def __getitem__(self, rows: Tensor) -> OldAnswers:
        rows = rows.to(self.logits.device)
        return OldAnswers(self.logits[rows], self.zero_shot[rows])


@dataclass(frozen=True)
class Unlabelled:
    """The task's N training images without labels, in an order that the seed draws."""

    source: Tensor  # features on the source, not normalised, ``[N, e_s]``
    target: Tensor  # features on the target, not normalised, ``[N, e_t]``
    inputs: Rows  # what the transfer's ``image_input`` names, on the target, ``[N, ...]``
    old: OldAnswers  # of the module on the source
    source_scale: float = 1.0  # the source's factor on cosine similarities
    # What the method's ``image_input`` names, on the source; with ``source weights`` alone.
    old_inputs: Rows | None = None


class TransferData:
    """What a transfer is given besides the module and the target: what its card declares.

    Whatever else it reaches for is an ``UndeclaredAccess``.

    Attributes:
        seed: of the cell; the only source of randomness.
        words: features of the word list on both backbones.
        unlabelled: the task's training images without labels.
        labels: k labelled images of each class on the target, with validation images as for a fit.
        source: the backbone that the module was fitted on.
    """

    words: WordPair
    unlabelled: Unlabelled
    labels: FewShotData
    source: Backbone

    def __init__(self, transfer: Transfer, seed: int = 0, **given: Any) -> None:
        """``given`` has ``words``, ``unlabelled``, ``labels`` and ``source``, as declared."""
        self.seed = seed
        self._name, self._access = transfer.card.name, transfer.card.access
        self._given = given

    def __getattr__(self, name: str) -> Any:
        if name not in TransferData.__annotations__:
            raise AttributeError(name)
        access = "source weights" if name == "source" else name
        if access not in self._access:
            raise UndeclaredAccess(
                f"transfer '{self._name}' reaches for '{access}', which its card does not declare; "
                "add it to 'access', or do without"
            )
        return self._given[name]

    def generator(self) -> torch.Generator:
        """A new source of random numbers, the same each time."""
        return torch.Generator().manual_seed(self.seed)


class Transfer:
    """Attaches modules to a backbone that they were not fitted on.

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
        self.config: Any = config if config is not None else self.Config()

    def serves(self, method: MethodCard) -> bool:
        """Whether the transfer can change anything for a method's modules."""
        return not self.card.takes.isdisjoint(method.places)

    def require(self, method: MethodCard) -> None:
        """Refuses a method whose modules the transfer cannot take."""
        if self.card.takes.isdisjoint(method.places):
            raise CompatbenchError(
                f"transfer '{self.card.name}' takes modules that act at "
                f"{' or '.join(sorted(self.card.takes))}; those of '{method.name}' act at "
                f"{' and '.join(method.places)}: choose another transfer"
            )

    def image_input(self, method: Method, target: Backbone) -> ImageInput:
        """What the classifier takes for an image on the target; by default, as the method's."""
        return method.image_input(target)

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        """The module for ``target``, of a transfer that makes one."""
        raise NotImplementedError

    def attach(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Classifier:
        """The classifier that the module is on ``target``, by default that of ``carry``.

        With ``old model`` it is called with the ``OldAnswers`` for the same images, too. Gradients
        are off; what trains turns them on (``torch.enable_grad``).

        Raises:
            NotTransferable: as ``Method.attach``.
        """
        return method.attach(self.carry(method, module, target, labels, data), target, labels)


def attach_rotated(
    method: Method,
    module: Module,
    target: Backbone,
    labels: Labels,
    rotation: Tensor,
    see: Callable[[Tensor], Tensor] | None = None,
) -> Classifier:
    """The classifier of a module on a target in the coordinates of ``rotation`` ``[e_s, e_t]``.

    ``see`` takes the target's image features ``[..., e_t]`` to what the module is shown,
    ``[..., e_s]``; by default it is the rotation.

    Raises:
        NotTransferable: as ``Method.attach``; or what is seen is another function of features
            that the method does not take from the harness.
    """
    rotated = RotatedBackbone(target, rotation)
    if method.image_input(target).in_joint_space:
        classify = method.attach(module, rotated, labels)
        return lambda features: classify((see or rotated.rotate)(features))
    if see is not None:
        raise NotTransferable(
            "the method runs the image tower itself, so features cannot be mapped"
        )
    return method.attach(module, rotated, labels)  # runs the rest of the rotated image tower
