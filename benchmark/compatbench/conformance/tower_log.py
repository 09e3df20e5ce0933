"""Records what passes through a backbone's towers, or lets no image through."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import PIL.Image
import torch
from torch import Tensor, nn

from compatbench.backbone import Prompts
from compatbench.conformance.models import forget_texts
from compatbench.data.feature_cache import FeatureCache
from compatbench.files.tensors import fingerprint
from compatbench.method import Backbone


class ImageTouched(Exception):
    """A method has looked at an image while it was being attached."""


@contextmanager
def no_images(backbone: Backbone) -> Iterator[None]:
    """Lets no image into the image tower, and none be read from a file or from the cache.

    Every image enters through the tower itself or through its first convolution.
    """

    def refuse(*_: object, **__: object) -> None:
        raise ImageTouched

    visual = backbone.model.visual
    assert isinstance(visual, nn.Module)
    entries = [visual, *(part for part in visual.modules() if isinstance(part, nn.Conv2d))]
    hooks = [entry.register_forward_pre_hook(refuse) for entry in entries]
    try:
        with (
            patch.object(FeatureCache, "features", refuse),
            patch.object(FeatureCache, "tokens", refuse),
            patch.object(PIL.Image, "open", refuse),
        ):
            yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class TowerLog:
    """What went through a backbone's towers, in order.

    Attributes:
        text_inputs: hashes of the rows that enter the text tower.
        text_inner: hashes of what replaces rows or weights in its blocks.
        text_outputs, image_outputs: what came out.
    """

    text_inputs: list[str] = field(default_factory=list)
    text_inner: list[str] = field(default_factory=list)
    text_outputs: list[Tensor] = field(default_factory=list)
    image_outputs: list[Tensor] = field(default_factory=list)

    @property
    def image_hashes(self) -> list[str]:
        return [fingerprint({"output": output}) for output in self.image_outputs]


def log_towers(backbone: Backbone, replay: TowerLog | None = None) -> tuple[Backbone, TowerLog]:
    """The same backbone, and a log of what goes through its towers.

    Args:
        replay: a log whose outputs are returned again, whatever goes in.
    """
    logged, log = copy.copy(backbone), TowerLog()
    # A text that is remembered would not go through the tower.
    forget_texts(logged)
    logged.image = copy.copy(backbone.image)
    encode = logged.encode_prompts

    def encode_prompts(prompts: Prompts, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        past = replay.text_outputs[len(log.text_outputs)] if replay else None
        rows = torch.arange(prompts.suffix.shape[1]) < torch.tensor(prompts.lengths)[:, None]
        entering = {"prefix": prompts.prefix, "suffix": prompts.suffix[rows]}
        inner = {f"deep {i}": tensor for i, tensor in enumerate(prompts.deep)} | dict(weights or {})
        if prompts.swap is not None:
            inner["swap"] = prompts.swap.rows
        log.text_inputs.append(fingerprint(entering))
        log.text_inner.append(fingerprint(inner))
        log.text_outputs.append(encode(prompts, weights) if past is None else past)
        return log.text_outputs[-1]

    def log_images(name: str) -> None:
        method = getattr(logged.image, name)

        def call(*arguments: Any, **options: Any) -> Tensor:
            past = replay.image_outputs[len(log.image_outputs)] if replay else None
            log.image_outputs.append(method(*arguments, **options) if past is None else past)
            return log.image_outputs[-1]

        setattr(logged.image, name, call)

    logged.encode_prompts = encode_prompts  # type: ignore[method-assign]
    log_images("encode")
    log_images("encode_dense")
    return logged, log
