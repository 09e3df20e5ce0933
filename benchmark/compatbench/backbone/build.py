"""Builds a frozen model from a backbone card; weights are read without running code."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compatbench.backbone.hf import model as hf_model
from compatbench.backbone.load.checkpoint import read_tensors
from compatbench.backbone.load.environment import hub_cache
from compatbench.backbone.load.open_clip_models import (
    model_config,
    open_clip_name,
    preprocessing,
    uses_quick_gelu,
    wrong_activation,
)
from compatbench.backbone.load.state_dict import fit_tensors, is_openai
from compatbench.backbone.load.weights_hash import locate_weights
from compatbench.backbone.mini import register_mini_towers
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError
from compatbench.files.project_folders import tasks_folder


def build_model(card: BackboneCard) -> nn.Module:
    """The card's model with its weights, float32, in evaluation mode, no gradients.

    Raises:
        CompatbenchError: the weights are missing, damaged or of another architecture, or
            were made with another activation than the model's.
    """
    if card.provider == "hf":
        return hf_model.load_model(card)
    path = locate_weights(card)
    model = build_architecture(card)
    model.load_state_dict(fit_weights(model, path, card), strict=True)
    return model.eval().requires_grad_(False)


def build_architecture(card: BackboneCard, device: str = "cpu") -> nn.Module:
    """The card's model with random weights and its own preprocessing.

    Args:
        device: ``meta`` for a model without any memory.

    Raises:
        BackboneError: it cannot be built.
    """
    import open_clip

    if card.provider == "hf":
        with torch.device(device):
            return hf_model.build_architecture(card)
    register_mini_towers(tasks_folder())
    name = open_clip_name(card)
    with _quiet(), torch.device(device):
        try:
            return open_clip.create_model(
                name,
                pretrained=None,
                load_weights=False,
                precision="fp32",
                device=device,
                force_preprocess_cfg=preprocessing(card),
                pretrained_text=False,
            )
        except (RuntimeError, ValueError, TypeError, KeyError, OSError, ImportError) as error:
            raise BackboneError(
                f"backbone '{card.name}': open_clip cannot build '{name}': {_first_line(error)}",
                "correct the name, or the open_clip_config.json of the folder",
            ) from None


def fit_weights(model: nn.Module, path: Path, card: BackboneCard) -> dict[str, Tensor]:
    """The tensors of a file by the model's names, in the file's own precision.

    Raises:
        BackboneError: the file is damaged, of another architecture, or one of OpenAI's, which
            need QuickGELU.
    """
    tensors = read_tensors(path)
    if is_openai(tensors) and card.config is not None and not uses_quick_gelu(card):
        raise wrong_activation(card, f"OpenAI's weights {path}", quick=True)
    return fit_tensors(tensors, model, f"backbone '{card.name}', {path}")


def build_tokenizer(card: BackboneCard, context_length: int) -> Any:
    """The model's tokenizer: byte pairs with the card's merges or CLIP's, or the model's own.

    Raises:
        BackboneError: its files are missing, or the package that reads them.
    """
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer

    if card.tokenizer is not None:
        path = tasks_folder() / card.tokenizer
        if not path.is_file():
            raise BackboneError(
                f"backbone '{card.name}': tokenizer {path} is missing",
                "restore the file (git checkout, or reinstall)",
            )
        return SimpleTokenizer(bpe_path=str(path), context_length=context_length)
    if card.provider == "hf":
        return hf_model.load_tokenizer(card, context_length)
    name = open_clip_name(card)
    if card.config is not None and card.config not in open_clip.list_models():
        return SimpleTokenizer(context_length=context_length)  # a model made in memory
    try:
        with _quiet():
            return open_clip.get_tokenizer(
                name, context_length=context_length, cache_dir=str(hub_cache())
            )
    except ImportError:
        raise BackboneError(
            f"backbone '{card.name}': its tokenizer needs the package transformers",
            "pip install 'compatbench[hf]'",
        ) from None
    except (OSError, ValueError) as error:
        text: dict[str, Any] = (model_config(card) or {}).get("text_cfg", {})
        repository = text.get("hf_tokenizer_name") or name
        raise BackboneError(
            f"backbone '{card.name}': the tokenizer of {repository} is not on this machine: "
            f"{_first_line(error)}",
            f"where there is a network: hf download {repository} --include 'token*'",
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides open_clip's warning that no pretrained weights are loaded: that is done later."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
