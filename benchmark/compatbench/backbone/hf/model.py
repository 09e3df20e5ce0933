"""Builds a backbone from the folder of a model of transformers; no code in it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from compatbench.backbone.hf.preprocessing import read_preprocessing
from compatbench.backbone.hf.towers import FAMILIES, Family, HuggingFaceModel
from compatbench.backbone.load.transformers_folder import CONFIG, model_files, model_folder
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError


def load_model(card: BackboneCard) -> HuggingFaceModel:
    """The card's model with its weights, float32, in evaluation mode, no gradients.

    Raises:
        BackboneError: the model is of a type that is not supported; its files are missing,
            damaged or of another architecture; or transformers is not installed.
    """
    folder = model_folder(card, download=True)
    family, settings = _read_folder(folder, card)
    cls = getattr(_import_transformers(card), family.model)
    model_files(card)
    try:
        model, facts = cls.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    # transformers raises errors of every kind for files that are damaged or do not fit.
    except Exception as error:
        problem = f"transformers cannot load {folder} as {family.model}: {_first_line(error)}"
        raise _error(card, problem) from None
    if missing := sorted(facts["missing_keys"]):
        raise _error(
            card,
            f"the weights in {folder} lack {len(missing)} tensors of {family.model}, such as "
            f"{missing[0]}",
            "give the folder of a model that was trained to compare images with texts",
        )
    model.eval().requires_grad_(False)
    return HuggingFaceModel(model, family, settings).eval().requires_grad_(False)


def build_architecture(card: BackboneCard) -> HuggingFaceModel:
    """The card's model with random weights, on torch's current default device.

    Raises:
        BackboneError: as ``load_model``; the weights need not be there.
    """
    folder = model_folder(card)
    family, settings = _read_folder(folder, card)
    transformers = _import_transformers(card)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        model = getattr(transformers, family.model)(config)
    except Exception as error:
        problem = f"transformers cannot build {folder / CONFIG}: {_first_line(error)}"
        raise _error(card, problem) from None
    return HuggingFaceModel(model, family, settings)


def load_tokenizer(card: BackboneCard, context_length: int) -> Any:
    """The tokenizer in the model's folder, as open_clip wraps it.

    Raises:
        BackboneError: its files are missing or damaged.
    """
    from open_clip.tokenizer import HFTokenizer

    folder = model_folder(card)
    _import_transformers(card)
    try:
        return HFTokenizer(str(folder), context_length=context_length)
    except Exception as error:
        raise _error(
            card,
            f"no tokenizer can be read from {folder}: {_first_line(error)}",
            "fetch the model's tokenizer files",
        ) from None


def _read_folder(folder: Path, card: BackboneCard) -> tuple[Family, dict[str, Any]]:
    """Which family of models the configuration names, and how images are preprocessed."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        found = str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _error(card, f"cannot read {folder / CONFIG}: {error}") from None
    if found not in FAMILIES:
        raise _error(
            card,
            f"models of type '{found}' are not supported",
            f"supported: {', '.join(FAMILIES)}",
        )
    return FAMILIES[found], read_preprocessing(folder, card.name)


def _import_transformers(card: BackboneCard) -> Any:
    try:
        import transformers
    except ImportError:
        raise BackboneError(
            f"backbone '{card.name}' needs the package transformers",
            "pip install 'compatbench[hf]'",
        ) from None
    return transformers


def _error(card: BackboneCard, problem: str, fix: str = "fetch the model again") -> BackboneError:
    return BackboneError(f"backbone '{card.name}': {problem}", fix)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
