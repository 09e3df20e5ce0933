"""Builds a frozen open_clip model from a backbone card; weights are read without running code."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compatbench.backbone.mini import register_mini_towers
from compatbench.cards import BackboneCard
from compatbench.errors import CompatbenchError
from compatbench.files import sha256_file
from compatbench.folders import tasks_folder


def build_model(card: BackboneCard) -> nn.Module:
    """The card's model with its weights, float32, in evaluation mode, no gradients.

    Raises:
        CompatbenchError: the weights are missing, damaged or of another architecture.
    """
    import open_clip

    path = tasks_folder() / card.weights
    state = load_weights(path, card)
    register_mini_towers(tasks_folder())
    with _quiet():
        model = open_clip.create_model(card.config, pretrained=None, precision="fp32")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CompatbenchError(
            f"{path}: weights do not fit the architecture '{card.config}' of backbone "
            f"'{card.name}': {detail}"
        ) from None
    return model.eval().requires_grad_(False)


def load_weights(path: Path, card: BackboneCard) -> dict[str, torch.Tensor]:
    """Reads a safetensors file in float32 after its hash has been checked against the card."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CompatbenchError(f"backbone '{card.name}': weights {path} are missing")
    try:
        if sha256_file(path) != card.sha256:
            raise CompatbenchError(
                f"backbone '{card.name}': {path} is damaged or was replaced: its SHA-256 is not "
                "the one on the card; restore the file (git checkout, or reinstall)"
            )
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise CompatbenchError(f"backbone '{card.name}': cannot read {path}: {error}") from None


def build_tokenizer(card: BackboneCard, context_length: int) -> Any:
    """open_clip's byte-pair tokenizer with the card's merges, or with CLIP's own."""
    from open_clip.tokenizer import SimpleTokenizer

    if card.tokenizer is None:
        return SimpleTokenizer(context_length=context_length)
    path = tasks_folder() / card.tokenizer
    if not path.is_file():
        raise CompatbenchError(f"backbone '{card.name}': tokenizer {path} is missing")
    return SimpleTokenizer(bpe_path=str(path), context_length=context_length)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides open_clip's notice that no pretrained weights were asked for: ours follow."""
    level = logging.root.level
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        logging.root.setLevel(level)
