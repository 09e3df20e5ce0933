"""Tiny random models, built through open_clip's own classes: no weights, no network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from compatbench.backbone import Backbone
from compatbench.backbone.load.mini_towers import register_mini_towers
from compatbench.data.cards import BackboneCard
from compatbench.files.hashes import sha256_json
from compatbench.files.project_folders import tasks_folder
from compatbench.files.tensors import fingerprint

VOCABULARY = 2514  # of tasks/mini/tokenizer.txt.gz
CONTEXT_LENGTH = 32
IMAGE_SIZE = 48
LAYERS = 12  # as in ViT-B/16, so that published settings of depth have their place

# No two sizes of the source are equal, and none is the number of classes, so that a size
# tells what it is the size of.
EMBED_DIM = 16
SIZES = {"token_width": 32, "embed_dim": EMBED_DIM, "image_width": 48, "head_width": 16}


class SyntheticModels:
    """The models that methods are tried on."""

    def __init__(self) -> None:
        # Synthetic images as backbones encode them, kept for the next method.
        self.seen: dict[Hashable, Any] = {}
        self._builders: dict[str, Callable[[], Backbone]] = {}
        self._tensors: dict[str, dict[str, Tensor]] = {}
        self.source = self._build(build_clip, "synthetic-clip", 1)
        # With the source's sizes and other weights.
        self.target = self._build(build_eva_clip, "synthetic-eva-clip", 2)

    @cached_property
    def others(self) -> dict[str, Backbone]:
        """Models of other sizes, by what is different about them."""
        every_size = dict(token_width=64, embed_dim=24, image_width=64)
        return {
            "text tokens": self._build(build_clip, "wider-text", 3, token_width=64),
            "joint space": self._build(build_clip, "wider-joint", 4, embed_dim=24),
            "image tower": self._build(build_clip, "wider-image", 5, image_width=64),
            "every size": self._build(build_eva_clip, "stranger", 6, **every_size),
        }

    def _build(
        self, build: Callable[..., Backbone], name: str, seed: int, **sizes: int
    ) -> Backbone:
        """Build a backbone, and remember how to build it again."""
        builder = partial(build, name, seed, **sizes)
        backbone = builder()
        self._builders[name] = builder
        self._tensors[name] = {
            path: tensor.clone() for path, tensor in _list_tensors(backbone).items()
        }
        return backbone

    def changed(self, backbone: Backbone) -> list[str]:
        """Return the names of parameters and buffers that differ, in any bit, from the original."""
        before = self._tensors[backbone.name]
        now = _list_tensors(backbone)
        changed = []
        for name, tensor in now.items():
            if name in before and not torch.equal(before[name], tensor):
                changed.append(name)
        added_or_gone = before.keys() ^ now.keys()
        return [*changed, *sorted(added_or_gone)]

    def restore(self, *backbones: Backbone) -> None:
        """Put backbones, by default all of them, back as they were made."""
        for backbone in backbones or (self.source, self.target, *self.others.values()):
            tensors = _list_tensors(backbone).values()
            # A method seldom leaves gradients, and PyTorch is slow to remove none.
            if any(tensor.requires_grad or tensor.grad is not None for tensor in tensors):
                backbone.model.requires_grad_(False).zero_grad(set_to_none=True)
            if self.changed(backbone):
                again = self._builders[backbone.name]()
                vars(backbone).clear()
                vars(backbone).update(vars(again))
                self.seen.clear()


def _list_tensors(backbone: Backbone) -> dict[str, Tensor]:
    """Return parameters and buffers, the causal mask among them, which no file holds."""
    tensors = {}
    # This walk takes a fraction of the time of ``named_parameters``.
    for path, part in backbone.model.named_modules():
        for kind in ("_parameters", "_buffers"):
            for key, tensor in vars(part)[kind].items():
                if tensor is not None:
                    tensors[f"{path}.{key}".lstrip(".")] = tensor
    return tensors


@cache
def synthetic_models() -> SyntheticModels:
    """Return the synthetic models, built once per process."""
    return SyntheticModels()


def forget_texts(backbone: Backbone) -> None:
    """Empty what a backbone remembers of texts it has encoded."""
    for name, value in vars(backbone).items():
        if name.startswith("_") and isinstance(value, dict):
            setattr(backbone, name, {})


def build_clip(name: str, seed: int, **sizes: int) -> Backbone:
    """Build a CLIP with QuickGELU, as OpenAI's; ``sizes`` replace those in ``SIZES``."""
    from open_clip.model import CLIP

    sizes = SIZES | sizes
    image: Any = dict(image_size=IMAGE_SIZE, patch_size=12, layers=LAYERS)
    image |= dict(width=sizes["image_width"], head_width=sizes["head_width"])
    model = CLIP(sizes["embed_dim"], image, _text_config(sizes), quick_gelu=True)
    return wrap(randomise(model, seed), name)


def build_eva_clip(name: str, seed: int, **sizes: int) -> Backbone:
    """Build a CLIP with exact GELU and an EVA-02 image tower.

    The tower has SwiGLU, rotary positions and no first norm. ``sizes`` replace those in ``SIZES``.
    """
    import timm
    from open_clip.model import CustomTextCLIP

    register_mini_towers(tasks_folder())
    tower = "eva02_mini_patch12_clip_48"
    sizes = SIZES | sizes
    image: Any = dict(image_size=IMAGE_SIZE, timm_model_name=tower, timm_model_pretrained=False)
    image |= dict(timm_pool="token", timm_proj="linear")
    model: Any = CustomTextCLIP(sizes["embed_dim"], image, _text_config(sizes))
    # open_clip takes the sizes of a timm tower from timm's name for it.
    width = sizes["image_width"]
    heads = width // sizes["head_width"]
    model.visual.trunk = timm.create_model(
        tower, num_classes=0, depth=LAYERS, embed_dim=width, num_heads=heads
    )
    model.visual.head.proj = nn.Linear(width, sizes["embed_dim"], bias=False)
    return wrap(randomise(model, seed), name)


def _text_config(sizes: Mapping[str, int]) -> Any:
    """Return the configuration of a text tower as open_clip takes it."""
    shape = dict(context_length=CONTEXT_LENGTH, vocab_size=VOCABULARY, layers=LAYERS)
    width = sizes["token_width"]
    return dict(shape, width=width, heads=width // sizes["head_width"])


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Give every parameter a value that no shortcut could pass for: no zero bias, no unit norm."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name == "logit_scale":
            parameter.fill_(3.0 + 0.1 * seed)
        elif parameter.ndim == 1:
            parameter.copy_(noise * 0.2 + float("bias" not in name))
        elif "embedding" in name:
            parameter.copy_(noise * 0.3)
        else:
            parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    return model.eval().requires_grad_(False)


def wrap(model: nn.Module, name: str, tokenizer: str | None = "mini/tokenizer.txt.gz") -> Backbone:
    """Return a model as a backbone with the mini suite's tokenizer, or with CLIP's for None."""
    visual: Any = model.visual
    if not hasattr(visual, "preprocess_cfg"):
        visual.preprocess_cfg = dict(size=IMAGE_SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    facts = dict(name=name, title=name, config=name, weights="none.safetensors", sha256="0" * 64)
    facts |= dict(tokenizer=tokenizer, lineage="", licence="none")
    return Backbone(BackboneCard.model_validate(facts), model, torch.device("cpu"))


def rotate_clip(backbone: Backbone, rotation: Tensor) -> Backbone:
    """Return a CLIP with a rotated embedding space: features f become f Rᵀ, and logits stay.

    ``rotation`` is R, ``[e, e]``.
    """
    # The backbone is copied, not its model: a new one would read its tokenizer's file again.
    rotated = copy.deepcopy(backbone)
    forget_texts(rotated)
    vars(rotated).pop("image", None)
    vars(rotated.text).pop("weights", None)
    rotated.weights_key = sha256_json([backbone.weights_key, fingerprint({"rotation": rotation})])
    model: Any = rotated.model
    with torch.no_grad():
        for projection in (model.text_projection, model.visual.proj):
            projection.copy_(projection @ rotation.T)
    return rotated


def random_rotation(size: int, seed: int) -> Tensor:
    """Return a random orthogonal matrix ``[e, e]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
