"""The classes and functions that a method adapter is written with.

A method is one file: a class with a ``card``, a ``Config``, ``fit`` and ``attach``.
``fit`` makes a module on the source backbone; ``attach`` turns the module into a
classifier on any backbone. It receives class names and templates, but never images.
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

# A function from image features [batch, e], not normalised, to logits [batch, classes]. If the
# method's `image_input` names another input, it takes that, with the batch as first dimension.
Classifier = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MethodCard:
    """The facts about a method that lists and the leaderboard show.

    Attributes:
        name: the name that the command line and results use.
        title: the name as its authors write it.
        paper: where it was published, such as ``arXiv:2109.01134``.
        inserts: the place, or places, where the module acts.
        summary: the idea in one line.
        version: raised with every change of the numbers that the method gives; part of its key.
        was: the first name of a method that was renamed: keys keep it, so nothing is run again.
        needs: the inputs besides few-shot images, class names and templates:
            ``descriptions``, texts of each class, in its labels; ``unlabelled``, all training
            images; ``teacher``, another frozen backbone, which its setting ``teacher`` names;
            ``stream``, all images of a test set in one call of the classifier. They are part of
            its keys. Inputs that are not named here are not provided. Methods with a stream are
            ranked separately.
        files: data that the method reads, as paths from its own file. For a method that is not
            one of compatbench's, they are part of its key, like its code.
        learns: False for a method that uses no image; it runs for one seed only.
        zero_shot_at: the module at which the method equals the zero-shot classifier, if there is
            one: for each tensor that differs from the fitted one, the number that fills it, or
            the words whose token embeddings it contains.
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
        """Return the name in keys, which a renamed method keeps."""
        return self.was or self.name

    @property
    def places(self) -> tuple[Place, ...]:
        """Return the places where the module acts, also if there is only one."""
        if isinstance(self.inserts, tuple):
            return self.inserts
        return (self.inserts,)

    @property
    def depth(self) -> Depth:
        """Return shallow if the module acts only at the text encoder's input, otherwise deep."""
        if self.places == ("none",):
            return "none"
        return "shallow" if self.places == ("text-input",) else "deep"


class MethodConfig(BaseModel):
    """The settings of a method: immutable; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Module:
    """The named tensors that a fit returns.

    Store nothing here that can be derived from a backbone and class names: a derived
    tensor would bring the source's classifier to the target.

    Attributes:
        trained: tensors found by optimisation or in closed form; they count as parameters.
        stored: other data of the module, such as the labels of a cache or a chosen weight.
        about: facts about the fit (method, config, task, source, shots, seed), if known.
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
        both = self.trained.keys() & self.stored.keys()
        if both:
            raise ValueError(f"tensor '{min(both)}' is both trained and stored")

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in self.tensors.items())
        about = [str(self.about.get(name, "?")) for name in ("method", "task", "source")]
        return f"<Module {' / '.join(about)}: {shapes or 'no tensors'}>"

    def __getitem__(self, name: str) -> Tensor:
        if name in self.trained:
            return self.trained[name]
        return self.stored[name]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, the trained ones first."""
        return self.trained | self.stored

    @property
    def parameters(self) -> int:
        """Return how many numbers the fit determined."""
        return sum(tensor.numel() for tensor in self.trained.values())

    @property
    def bytes(self) -> int:
        """Return the size of all tensors in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @property
    def fingerprint(self) -> str:
        """Return the hash of names, shapes, types and bits."""
        return fingerprint(self.tensors)

    def detach(self) -> Module:
        """Return a copy without gradients, in contiguous memory of its own."""
        return self.map(lambda tensor: tensor.detach().clone().contiguous())

    def to(self, device: torch.device) -> Module:
        """Return a copy on a device."""
        return self.map(lambda tensor: tensor.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> Module:
        """Return a copy in which ``change`` was applied to every tensor."""
        trained = {name: change(tensor) for name, tensor in self.trained.items()}
        stored = {name: change(tensor) for name, tensor in self.stored.items()}
        return Module(trained, stored, self.about)

    def save(self, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
        """Write safetensors with a checksum, and ``about`` as JSON, by default the module's own."""
        facts = dict(self.about if about is None else about)
        words = {"trained": sorted(self.trained), "about": facts}
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
    """Read a module, with the facts about it in its file.

    Raises:
        CompatbenchError: the file is damaged, or not a module.
    """
    tensors, words = load_tensors(path, MODULE_SCHEMA, "module")
    try:
        names = set(words["trained"])
        about = dict(words["about"])
    except (KeyError, TypeError, ValueError):
        raise CompatbenchError(f"{path} is not a compatbench module") from None
    trained = {}
    stored = {}
    for name, tensor in tensors.items():
        if name in names:
            trained[name] = tensor
        else:
            stored[name] = tensor
    return Module(trained, stored, about)


class CosineClassifier:
    """Scaled cosine similarity to one weight per class: z = s · ⟨f̂, ŵ_c⟩.

    A subclass whose inputs are not features defines ``encode``.
    """

    def __init__(self, weights: Tensor, scale: float | Tensor) -> None:
        """Normalise ``weights``, ``[C, e]``; ``scale`` is the factor s."""
        self.weights = F.normalize(weights, dim=-1)
        self.scale = scale

    def encode(self, inputs: Tensor) -> Tensor:
        """Return image features of the inputs, not normalised, ``[batch, e]``."""
        return inputs

    def classify(self, features: Tensor) -> Tensor:
        """Return logits ``[batch, classes]`` of image features ``[batch, e]``."""
        return self.scale * F.normalize(features, dim=-1) @ self.weights.T

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.classify(self.encode(inputs))


class Method(ABC):
    """A procedure that fits a module on one backbone and attaches it to any other.

    A whole method file::

        import torch.nn.functional as F

        from compatbench.method import CosineClassifier, Method, MethodCard, Module, require_shape


        class Means(Method):
            card = MethodCard(
                name="means",
                title="Means",
                paper="unpublished",
                inserts="classifier",
                summary="A class is the mean of its images.",
            )

            def fit(self, backbone, data, rng):
                images = data.train.plain
                owners = F.one_hot(data.train.targets, len(data.labels)).to(images)
                counts = owners.sum(0).clamp(min=1)  # a class may have no image
                return Module({"means": owners.T @ images / counts[:, None]})

            def attach(self, module, backbone, labels):
                means = require_shape(module, "means", backbone.embed_dim, "features of size")
                require_shape(module, "means", len(labels), "tasks of classes", dim=0)
                return CosineClassifier(means, backbone.logit_scale)
    """

    card: ClassVar[MethodCard]

    class Config(MethodConfig):
        """Settings; subclasses add fields, whose defaults are the published values.

        Where the authors have a value for each dataset, the default is ImageNet's. The page of the
        method lists other defaults.
        """

    def __init__(self, config: BaseModel | None = None) -> None:
        self.config = self.Config() if config is None else config

    def image_input(self, backbone: Backbone) -> ImageInput:
        """Return the input of this method's classifiers on a backbone; by default features.

        A method that acts inside the image tower takes the tokens that enter the first
        block it changes; everything before that is computed once and cached. ``ImageInput``
        lists all inputs, also test views.

        Raises:
            NotTransferable: the backbone's image tower does not provide this input.
        """
        return FEATURES

    def count_epochs(self, shots: int, images: int) -> int:
        """Return the epochs of a fit on this many images; 1 for a method without epochs."""
        return 1

    @abstractmethod
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """Fit a module and return it.

        Args:
            backbone: the source; frozen.
            data: few-shot images of one task, as features of this backbone.
            rng: the only source of randomness.
        """

    @abstractmethod
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        """Turn a module into a classifier on a backbone, without learning anything.

        Everything learned comes from ``module``, unchanged; everything that depends on the
        backbone (token embeddings, zero-shot features, logit scale) is derived anew.

        Raises:
            NotTransferable: the module has no meaning on this backbone.
        """

    def contexts(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor | None:
        """Return the vectors before the class names, ``[N, D]``, or of each class, ``[C, N, D]``.

        Return None for a method that has none, or has others for every image. The results
        include the diversity of these vectors.
        """
        return None


def require_shape(module: Module, name: str, size: int, what: str, dim: int = -1) -> Tensor:
    """Return the named tensor if its size along ``dim`` fits the backbone or the labels.

    Raises:
        NotTransferable: the sizes differ; tensors are never padded or cut to fit.
    """
    tensor = module[name]
    if tensor.shape[dim] != size:
        raise NotTransferable(f"the module was made for {what} {tensor.shape[dim]}, not {size}")
    return tensor


def require_blocks(count: int, depth: int, tower: str) -> None:
    """Raise ``NotTransferable`` if a module acts in ``count`` blocks and a tower has fewer."""
    if count > depth:
        raise NotTransferable(
            f"the module was made for {tower} towers of {count} blocks or more, not {depth}"
        )


def shift_weights(
    weights: Mapping[str, Tensor], deltas: Mapping[str, Tensor], tower: str = "text"
) -> dict[str, Tensor]:
    """Return a tower's weights with differences added, as the ``weights`` of ``encode``.

    Only the weights named in ``deltas`` are returned. Each sum is computed in the precision of
    both tensors and stored in the tower's.

    Raises:
        NotTransferable: the tower has no weight of a name, or one of another size.
    """
    shifted = {}
    for name, delta in deltas.items():
        if name not in weights:
            raise NotTransferable(f"the backbone's {tower} tower has no '{name}'")
        if weights[name].shape != delta.shape:
            old = " × ".join(map(str, delta.shape))
            new = " × ".join(map(str, weights[name].shape))
            raise NotTransferable(f"the module was made for a '{name}' of size {old}, not {new}")
        shifted[name] = (weights[name] + delta).to(weights[name].dtype)
    return shifted
