"""Run one computation in two ways: as open_clip and CoOp do it, and as compatbench does it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.extras.check.models import wrap

CONTEXT = 16
# Classes that the plain code takes at once: 1,000 with 77 tokens need more memory than there is.
PART = 50


def read_names(dataset: str) -> tuple[str, ...]:
    """Return the class names of a dataset as CoOp writes them."""
    path = Path(__file__).parent / "classnames" / f"{dataset}.json"
    return tuple(json.loads(path.read_text(encoding="utf-8")))


def make_workload() -> Workload:
    """Return open_clip's ViT-B-16 with random weights, on which times do not depend."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16", pretrained=None, precision="fp32")
    return Workload(wrap(model.eval().requires_grad_(False), "ViT-B-16", None))


def make_small(name: str, embed_dim: int, width: int, heads: int, layers: int) -> Workload:
    """Return a CLIP with a text tower of these sizes, and an image tower of one block."""
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
    """A model with both computations of the text features of learned prompts."""

    backbone: Backbone

    def draw_context(self, *shape: int) -> Tensor:
        """Return random context vectors to be learned, ``[*shape, token_width]``."""
        generator = torch.Generator().manual_seed(1)
        size = (*shape, self.backbone.token_width)
        return (0.02 * torch.randn(size, generator=generator)).requires_grad_()

    def draw_weights(self, classes: int) -> Tensor:
        """Return the gradient of a loss in the features, ``[C, e]``, which differs by class."""
        generator = torch.Generator().manual_seed(2)
        return torch.randn(classes, self.backbone.embed_dim, generator=generator)

    def plain_features(self, names: tuple[str, ...], context: Tensor) -> Tensor:
        """Return text features by CoOp's code, with 77 tokens for every class, ``[C, e]``."""
        model: Any = self.backbone.model
        length = len(context)
        ids = self.backbone.tokenizer([" ".join(["X"] * length) + f" {name}." for name in names])
        words = model.token_embedding(ids)
        shared = context.expand(len(names), -1, -1)
        x = torch.cat([words[:, :1], shared, words[:, 1 + length :]], dim=1)
        x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
        return model.ln_final(x)[torch.arange(len(x)), ids.argmax(-1)] @ model.text_projection

    def plain_pass(self, names: tuple[str, ...], context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and the gradient in the context, computed with 77 tokens."""
        weights = self.draw_weights(len(names))
        features = []
        gradient = torch.zeros_like(context)
        for i in range(0, len(names), PART):
            part = self.plain_features(names[i : i + PART], context)
            loss = (part * weights[i : i + PART]).sum()
            gradient += torch.autograd.grad(loss, context)[0]
            features.append(part.detach())
        return torch.cat(features), gradient

    def fast_pass(self, names: tuple[str, ...], context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same, computed by compatbench."""
        features = self.backbone.encode_prompts(self.backbone.prompts(labels_of(names), context))
        loss = (features * self.draw_weights(len(names))).sum()
        return features.detach(), torch.autograd.grad(loss, context)[0]


def labels_of(names: tuple[str, ...]) -> Labels:
    """Return labels with these class names and CLIP's plain template."""
    return Labels(names, ("a photo of a {}.",), "a photo of a {}.")


def cross_entropy(images: Tensor, texts: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Return the mean cross-entropy of scaled cosines of ``[batch, e]`` and ``[C, e]``."""
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    return F.cross_entropy(logits, targets)


def relative_error(computed: Tensor, expected: Tensor) -> float:
    """Return the largest difference, in parts of the largest value."""
    return float((computed - expected).abs().max() / expected.abs().max())


def time_best(function: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Return the best CPU time in seconds, and the result of the last round."""
    best = float("inf")
    result = None
    for _ in range(rounds):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return best, result


def peak_gib() -> float:
    """Return the peak memory of this process in GiB."""
    # The peak of getrusage would include that of the parent before this program was started.
    text = Path("/proc/self/status").read_text()
    [peak_kib] = re.findall(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    return int(peak_kib) / 2**20


def matmul_rate(size: int = 1024, rounds: int = 10) -> float:
    """Return the best rate of a square float32 matrix product, in operations per second.

    The product uses the faster of PyTorch's two libraries, as compatbench does.
    """
    a, b = torch.randn(2, size, size)
    seconds, _ = time_best(lambda: torch.mm(a, b), rounds)
    return 2 * size**3 / seconds
