"""What a method adapter is made of.

A method is one file: a class with a ``card``, a ``Config``, ``fit`` and ``attach``.
``fit`` makes a module on the source backbone; ``attach`` turns the module into a
classifier on any backbone, and is given class names and templates but never images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from compatbench.backbone import DENSE, FEATURES, PIXELS, POOLED, Backbone, ImageInput, Labels
from compatbench.data.labels import Need
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.files.tensors import fingerprint, load_tensors, pack_tensors, save_tensors
from compatbench.method.few_shot import FeatureSet, FewShotData, Rows, Teacher
from compatbench.method.hub import upload_module
from compatbench.method.mistakes import check_words, read_settings

__all__ = [
    "DENSE", "FEATURES", "PIXELS", "POOLED", "Backbone", "Classifier", "CosineClassifier",
    "FeatureSet", "FewShotData", "ImageInput", "Labels", "Method", "MethodCard", "MethodConfig",
    "Module", "NotTransferable", "Rows", "Teacher", "load_module", "read_settings",
    "require_blocks", "require_shape", "shift_weights",
]  # fmt: skip

Place = Literal["none", "text-input", "text-layers", "image-layers", "feature", "classifier"]
Depth = Literal["none", "shallow", "deep"]

MODULE_SCHEMA = "compatbench-module-2"

# Image features [batch, e], not normalised, to logits [batch, classes]; or whatever else
# the method's `image_input` names, its first dimension being the batch.
Classifier = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MethodCard:
    """What a method is, for lists and for the leaderboard.

    Attributes:
        name: the name that the command line and results use.
        title: the name as its authors write it.
        paper: where it was published, such as ``arXiv:2109.01134``.
        inserts: the place, or places, where the module acts.
        summary: the idea in one line.
        version: raised with every change of the numbers that the method gives; part of its key.
        was: the first name of a method that was renamed: keys keep it, so nothing is run again.
        needs: what it is given besides few-shot images, class names and templates:
            ``descriptions``, texts of each class, in its labels; ``unlabelled``, all training
            images; ``teacher``, another frozen backbone, which its setting ``teacher`` names;
            ``stream``, all images of a test set in one call of the classifier. They are then in
            its keys, and nothing else is given; methods with a stream are ranked apart.
        files: data that the method reads, as paths from its own file. They are part of its key
            if the method is not one of compatbench's, as its code is.
        learns: False for a method that looks at no image; it is run for one seed only.
        zero_shot_at: the module at which the method is the zero-shot classifier, if there is
            one: for each tensor that differs from the fitted one the number that fills it, or
            the words it holds the token embeddings of.
        excused: checks of the conformance kit that the method cannot pass by its nature,
            each with the reason.
    """

    name: str
    title: str
    paper: str
    inserts: Place | tuple[Place, ...]
    summary: str
    version: int = 1
    was: str = ""
    needs: Set[Need] = field(default_factory=frozenset, hash=False)
    files: tuple[str, ...] = ()
    learns: bool = True
    zero_shot_at: Mapping[str, float | str] = field(default_factory=dict, hash=False)
    excused: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_words("inserts", self.places, tuple, get_args(Place))
        check_words("needs", self.needs, Set, get_args(Need))
        check_words("files", self.files, tuple)

    @property
    def identity(self) -> str:
        """The name in keys, which a renamed method keeps."""
        return self.was or self.name

    @property
    def places(self) -> tuple[Place, ...]:
        return self.inserts if isinstance(self.inserts, tuple) else (self.inserts,)

    @property
    def depth(self) -> Depth:
        """Shallow if the module acts at the text encoder's input only; deep anywhere else."""
        if self.places == ("none",):
            return "none"
        return "shallow" if self.places == ("text-input",) else "deep"


class MethodConfig(BaseModel):
    """The settings of a method: immutable; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Module:
    """Named tensors as a fit left them.

    Nothing that can be derived from a backbone and class names belongs here: a
    derived buffer carried along would turn the target's classifier into the source's.

    Attributes:
        trained: tensors found by optimisation or in closed form; they count as parameters.
        stored: data the module keeps, such as the labels of a cache or a chosen weight.
        about: how it was fitted (method, config, task, source, shots, seed), where known.
    """

    def __init__(
        self,
        trained: Mapping[str, Tensor] | None = None,
        stored: Mapping[str, Tensor] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.trained = dict(trained or {})
        self.stored = dict(stored or {})
        self.about = dict(about or {})
        if both := self.trained.keys() & self.stored.keys():
            raise ValueError(f"tensor '{min(both)}' is both trained and stored")

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in self.tensors.items())
        about = [str(self.about.get(name, "?")) for name in ("method", "task", "source")]
        return f"<Module {' / '.join(about)}: {shapes or 'no tensors'}>"

    def __getitem__(self, name: str) -> Tensor:
        return self.trained[name] if name in self.trained else self.stored[name]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self.trained | self.stored

    @property
    def parameters(self) -> int:
        """Numbers that the fit determined."""
        return sum(tensor.numel() for tensor in self.trained.values())

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @property
    def fingerprint(self) -> str:
        """Hash of names, shapes, types and bits."""
        return fingerprint(self.tensors)

    def detach(self) -> Module:
        """A copy without gradients, in contiguous memory of its own."""
        return self.map(lambda tensor: tensor.detach().clone().contiguous())

    def to(self, device: torch.device) -> Module:
        return self.map(lambda tensor: tensor.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> Module:
        """A copy with other tensors."""
        trained = {name: change(tensor) for name, tensor in self.trained.items()}
        stored = {name: change(tensor) for name, tensor in self.stored.items()}
        return Module(trained, stored, self.about)

    def save(self, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
        """Writes safetensors with a checksum, and ``about``, or the module's own, as JSON."""
        described = dict(self.about if about is None else about)
        words = {"trained": sorted(self.trained), "about": described}
        save_tensors(Path(path), self.tensors, MODULE_SCHEMA, words)

    def push_to_hub(
        self, repository: str, *, licence: str | None = None, private: bool = False
    ) -> str:
        """Upload the module to the Hugging Face Hub, with a model card, and return the address.

        ``cb.load("hf://OWNER/NAME")`` loads it again. It needs your token (``hf auth login``, or
        ``HF_TOKEN``). No image and no weight of the backbone is sent.

        Args:
            repository: ``OWNER/NAME``; it is created if it does not exist.
            licence: the licence that you give the module, as the Hub names it, such as ``mit``.
            private: make a new repository private.

        Raises:
            CompatbenchError: no token, no right to write, an existing public repository where a
                private one was requested, or a Hub that cannot be reached.
        """
        words = {"trained": sorted(self.trained), "about": dict(self.about)}
        content = pack_tensors(self.tensors, MODULE_SCHEMA, words)
        return upload_module(repository, content, self.about, licence=licence, private=private)


def load_module(path: Path) -> Module:
    """Reads a module, with what its file says about it; a damaged or other file is refused."""
    tensors, words = load_tensors(path, MODULE_SCHEMA, "module")
    try:
        trained, about = set(words["trained"]), dict(words["about"])
    except (KeyError, TypeError, ValueError):
        raise CompatbenchError(f"{path} is not a compatbench module") from None
    learned = {name: tensors.pop(name) for name in list(tensors) if name in trained}
    return Module(learned, tensors, about)


class CosineClassifier:
    """Scaled cosine similarity to one weight per class: z = s · ⟨f̂, ŵ_c⟩.

    A subclass whose inputs are no features gives ``encode``.
    """

    def __init__(self, weights: Tensor, scale: float | Tensor) -> None:
        """``weights`` are ``[C, e]``, kept normalised; ``scale`` is the factor s."""
        self.weights = F.normalize(weights, dim=-1)
        self.scale = scale

    def encode(self, inputs: Tensor) -> Tensor:
        """Image features of the inputs, not normalised, ``[batch, e]``."""
        return inputs

    def classify(self, features: Tensor) -> Tensor:
        """Logits ``[batch, classes]`` of image features ``[batch, e]``."""
        return self.scale * F.normalize(features, dim=-1) @ self.weights.T

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.classify(self.encode(inputs))


class Method(ABC):
    """A way to fit a module on one backbone and to attach it to any other.

    A whole method file::

        import torch

        from compatbench.method import CosineClassifier, Method, MethodCard, Module, require_shape


        class Means(Method):
            card = MethodCard(
                name="means",
                title="Means",
                paper="",
                inserts="classifier",
                summary="A class is the mean of its images.",
            )

            def fit(self, backbone, data, rng):
                images, labels = data.train.plain, data.train.targets
                means = [images[labels == label].mean(0) for label in labels.unique()]
                return Module({"means": torch.stack(means)})

            def attach(self, module, backbone, labels):
                means = require_shape(module, "means", backbone.embed_dim, "features of size")
                require_shape(module, "means", len(labels), "tasks of classes", dim=0)
                return CosineClassifier(means, backbone.logit_scale)
    """

    card: ClassVar[MethodCard]

    class Config(MethodConfig):
        """Settings; subclasses add fields with the published values as defaults."""

    def __init__(self, config: BaseModel | None = None) -> None:
        self.config = config if config is not None else self.Config()

    def image_input(self, backbone: Backbone) -> ImageInput:
        """What this method's classifiers take for an image on a backbone: its features.

        A method that acts inside the image tower takes the tokens that enter the first
        block it touches; what is before that is computed once and cached. See ``ImageInput``
        for all that there is, test views among it.

        Raises:
            NotTransferable: the backbone's image tower cannot give it.
        """
        return FEATURES

    def count_epochs(self, shots: int, images: int) -> int:
        """Epochs of a fit on so many images; 1 for a method that is not trained in epochs."""
        return 1

    @abstractmethod
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """Makes a module.

        Args:
            backbone: the source; frozen.
            data: few-shot images of one task, as features of this backbone.
            rng: the only source of randomness.
        """

    @abstractmethod
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        """Turns a module into a classifier on a backbone, learning nothing.

        What was learned comes from ``module``, untouched; what depends on the
        backbone (token embeddings, zero-shot features, logit scale) is derived anew.

        Raises:
            NotTransferable: the module has no meaning on this backbone.
        """

    def contexts(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor | None:
        """The vectors before the class names, ``[N, D]`` or of each class, ``[C, N, D]``.

        None for a method that has none, or has others for every image. Their diversity is
        measured.
        """
        return None


def require_shape(module: Module, name: str, size: int, what: str, dim: int = -1) -> Tensor:
    """The named tensor, if its size along ``dim`` fits the backbone or the labels as it is.

    Raises:
        NotTransferable: the sizes differ; they are never padded or cut to fit.
    """
    tensor = module[name]
    if tensor.shape[dim] != size:
        raise NotTransferable(f"the module was made for {what} {tensor.shape[dim]}, not {size}")
    return tensor


def require_blocks(count: int, depth: int, tower: str) -> None:
    """Refuses a module that acts in more blocks (``count``) than a tower has (``depth``)."""
    if count > depth:
        raise NotTransferable(
            f"the module was made for {tower} towers of {count} blocks or more, not {depth}"
        )


def shift_weights(
    weights: Mapping[str, Tensor], deltas: Mapping[str, Tensor], tower: str = "text"
) -> dict[str, Tensor]:
    """A tower's ``weights`` of these names with differences added, for ``encode`` to replace.

    Each is added in the precision of both and kept in the tower's.

    Raises:
        NotTransferable: the tower has none of a name, or one of another size.
    """
    shifted = {}
    for name, delta in deltas.items():
        if name not in weights:
            raise NotTransferable(f"the backbone's {tower} tower has no '{name}'")
        if weights[name].shape != delta.shape:
            old, new = (" × ".join(map(str, t.shape)) for t in (delta, weights[name]))
            raise NotTransferable(f"the module was made for a '{name}' of size {old}, not {new}")
        shifted[name] = (weights[name] + delta).to(weights[name].dtype)
    return shifted
