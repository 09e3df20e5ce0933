"""The same computation twice: as open_clip and CoOp do it, and as compatbench does it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.backbone.parts.products import fast_products
from compatbench.extras.check.models import wrap

CONTEXT = 16
PART = 50
"""Classes that the plain code takes at once: 1,000 at 77 tokens would not fit the machine."""


def read_names(dataset: str) -> tuple[str, ...]:
    """Class names as CoOp writes them."""
    path = Path(__file__).parent / "classnames" / f"{dataset}.json"
    return tuple(json.loads(path.read_text(encoding="utf-8")))


def make_workload() -> Workload:
    """open_clip's ViT-B-16 with random weights: times do not depend on what they are."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16", pretrained=None, precision="fp32")
    return Workload(wrap(model.eval().requires_grad_(False), "ViT-B-16", None))


def make_small(name: str, embed_dim: int, width: int, heads: int, layers: int) -> Workload:
    """A CLIP whose text tower has these sizes, behind an image tower of one block."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    image: Any = dict(image_size=24, patch_size=12, width=64, head_width=64, layers=1)
    text: Any = dict(context_length=77, vocab_size=49408, width=width, heads=heads, layers=layers)
    model: Any = CLIP(embed_dim, image, text).eval().requires_grad_(False)
    settings = dict(size=(24, 24), mode="RGB", mean=(0.0,) * 3, std=(1.0,) * 3, fill_color=0)
    settings |= dict(interpolation="bicubic", resize_mode="shortest")
    model.visual.preprocess_cfg = settings
    return Workload(wrap(model, name, None))


@dataclass(frozen=True)
class Workload:
    """One model, and both computations of text features of learned prompts."""

    backbone: Backbone

    def draw_context(self, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        size = (*shape, self.backbone.token_width)
        return (0.02 * torch.randn(size, generator=generator)).requires_grad_()

    def draw_weights(self, classes: int) -> Tensor:
        """The gradient of a loss in the features, ``[C, e]``: every class counts differently."""
        generator = torch.Generator().manual_seed(2)
        return torch.randn(classes, self.backbone.embed_dim, generator=generator)

    def plain_features(self, names: tuple[str, ...], context: Tensor) -> Tensor:
        """CoOp's prompt learner and text encoder: 77 tokens for every class, ``[C, e]``."""
        model: Any = self.backbone.model
        length = len(context)
        ids = self.backbone.tokenizer([" ".join(["X"] * length) + f" {name}." for name in names])
        words = model.token_embedding(ids)
        shared = context.expand(len(names), -1, -1)
        x = torch.cat([words[:, :1], shared, words[:, 1 + length :]], dim=1)
        x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
        return model.ln_final(x)[torch.arange(len(x)), ids.argmax(-1)] @ model.text_projection

    def plain_pass(self, names: tuple[str, ...], context: Tensor) -> tuple[Tensor, Tensor]:
        """Features and the gradient in the context, forward and backward at 77 tokens."""
        weights = self.draw_weights(len(names))
        features, gradient = [], torch.zeros_like(context)
        for i in range(0, len(names), PART):
            part = self.plain_features(names[i : i + PART], context)
            loss = (part * weights[i : i + PART]).sum()
            gradient += torch.autograd.grad(loss, context)[0]
            features.append(part.detach())
        return torch.cat(features), gradient

    @fast_products()
    def fast_pass(self, names: tuple[str, ...], context: Tensor) -> tuple[Tensor, Tensor]:
        """The same by compatbench."""
        features = self.backbone.encode_prompts(self.backbone.prompts(labels_of(names), context))
        loss = (features * self.draw_weights(len(names))).sum()
        return features.detach(), torch.autograd.grad(loss, context)[0]


def labels_of(names: tuple[str, ...]) -> Labels:
    return Labels(names, ("a photo of a {}.",), "a photo of a {}.")


def cross_entropy(images: Tensor, texts: Tensor, targets: Tensor, scale: float) -> Tensor:
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    return F.cross_entropy(logits, targets)


def relative_error(computed: Tensor, expected: Tensor) -> float:
    """The largest difference, in parts of the largest value."""
    return float((computed - expected).abs().max() / expected.abs().max())


def time_best(function: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Best CPU time in seconds, and what came out."""
    best, result = float("inf"), None
    for _ in range(rounds):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return best, result


def peak_gib() -> float:
    # Not getrusage: its peak is that of the parent until this program was started.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def matmul_rate(size: int = 1024, rounds: int = 10) -> float:
    """Floating-point operations per second of a square float32 matrix product, at best.

    By the faster of PyTorch's libraries, which compatbench takes.
    """
    a, b = torch.randn(2, size, size)
    with fast_products():
        seconds, _ = time_best(lambda: torch.mm(a, b), rounds)
    return 2 * size**3 / seconds
