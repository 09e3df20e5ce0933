"""Watches what passes between a method and a backbone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest.mock import patch

import PIL.Image
import torch
from torch import Tensor, nn

from compatbench.backbone import Prompts
from compatbench.conformance.models import forget
from compatbench.data.feature_cache import FeatureCache
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
    doors = [visual, *(part for part in visual.modules() if isinstance(part, nn.Conv2d))]
    hooks = [door.register_forward_pre_hook(refuse) for door in doors]
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


@dataclass(frozen=True)
class TextCall:
    """One pass through the text tower.

    Attributes:
        inputs: rows as they enter the tower, by name.
        inner: what replaces rows or weights in its blocks, by name.
        output: the features.
    """

    inputs: dict[str, Tensor]
    inner: dict[str, Tensor]
    output: Tensor


@dataclass
class Log:
    """What went through a backbone's towers, in order; of the image tower the outputs alone."""

    text: list[TextCall] = field(default_factory=list)
    image: list[Tensor] = field(default_factory=list)

    def differs_at(self, part: Literal["inputs", "inner"], other: Log) -> bool:
        """Whether something else entered the text tower, or was replaced in its blocks."""
        return len(self.text) != len(other.text) or any(
            _differ(getattr(one, part), getattr(two, part))
            for one, two in zip(self.text, other.text, strict=True)
        )

    def image_differs(self, other: Log) -> bool:
        """Whether something else came out of the image tower."""
        return len(self.image) != len(other.image) or any(
            not _same(one, two) for one, two in zip(self.image, other.image, strict=True)
        )


def spy_on(backbone: Backbone, replay: Log | None = None) -> tuple[Backbone, Log]:
    """The same backbone, and a log of what goes through its towers.

    Args:
        replay: answers with these outputs, whatever goes in.
    """
    spy, log = copy.copy(backbone), Log()
    # What a backbone remembers would pass the log by.
    forget(spy)
    encode = spy.encode_prompts

    def encode_prompts(prompts: Prompts, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        past = replay.text[len(log.text)].output if replay else None
        output = encode(prompts, weights) if past is None else past
        log.text.append(TextCall(*_describe(prompts, weights), output))
        return output

    spy.encode_prompts = encode_prompts  # type: ignore[method-assign]
    image = copy.copy(backbone.image)

    def watch(name: str) -> None:
        method = getattr(image, name)

        def watched(*arguments: Any, **options: Any) -> Tensor:
            past = replay.image[len(log.image)] if replay else None
            output = method(*arguments, **options) if past is None else past
            log.image.append(output)
            return output

        setattr(image, name, watched)

    watch("encode")
    watch("encode_dense")
    spy.image = image
    return spy, log


def _describe(
    prompts: Prompts, weights: Mapping[str, Tensor] | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What of prompts acts at the text tower's input, and what in its blocks."""
    suffix, lengths = prompts.suffix, torch.tensor(prompts.lengths)
    rows = torch.arange(suffix.shape[1]) < lengths[:, None]
    inner = {f"deep {i}": tensor for i, tensor in enumerate(prompts.deep)}
    if prompts.swap is not None:
        inner["swap"] = prompts.swap.rows
    return {"prefix": prompts.prefix, "suffix": suffix[rows]}, inner | dict(weights or {})


def _differ(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() != other.keys() or any(not _same(one[name], other[name]) for name in one)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
