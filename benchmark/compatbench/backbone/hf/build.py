"""Builds a backbone from the folder of a model of transformers; no code in it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compatbench.backbone.hf.files import CONFIG, model_files, model_folder
from compatbench.backbone.hf.preprocess import read_preprocessing
from compatbench.backbone.hf.towers import KINDS, HuggingFaceModel, Kind
from compatbench.backbone.load.hashes import hash_weights
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError


def build_hugging_face(card: BackboneCard) -> nn.Module:
    """The card's model with its weights, float32, in evaluation mode, no gradients.

    Raises:
        BackboneError: it is of no kind that is supported; its files are missing, damaged or
            of another architecture; or transformers is not installed.
    """
    folder = model_folder(card, download=True)
    kind = _read_kind(folder, card.name)
    settings = read_preprocessing(folder, card.name)
    cls = getattr(_transformers(card.name), kind.model)
    model_files(card)
    try:
        model, facts = cls.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    # transformers raises errors of every kind for files that are damaged or do not fit.
    except Exception as error:
        raise BackboneError(
            f"backbone '{card.name}': transformers cannot load {folder} as {kind.model}: "
            f"{_line(error)}",
            "fetch the model again",
        ) from None
    if missing := sorted(facts["missing_keys"]):
        raise BackboneError(
            f"backbone '{card.name}': the weights in {folder} lack {len(missing)} tensors of "
            f"{kind.model}, such as {missing[0]}",
            "give the folder of a model that was trained to compare images with texts",
        )
    model.eval().requires_grad_(False)
    return HuggingFaceModel(model, kind, settings).eval().requires_grad_(False)


def build_hugging_face_tokenizer(card: BackboneCard, context_length: int) -> Any:
    """The tokenizer in the model's folder, as open_clip wraps it.

    Raises:
        BackboneError: its files are missing or damaged.
    """
    from open_clip.tokenizer import HFTokenizer

    folder = model_folder(card)
    _transformers(card.name)
    try:
        return HFTokenizer(str(folder), context_length=context_length)
    except Exception as error:
        raise BackboneError(
            f"backbone '{card.name}': no tokenizer can be read from {folder}: {_line(error)}",
            "fetch the model's tokenizer files",
        ) from None


def describe_hugging_face(card: BackboneCard) -> dict[str, Any]:
    """What ``inspect_backbone`` reports of such a model, as fields of ``BackboneReport``.

    Raises:
        BackboneError: as above.
    """
    folder = model_folder(card)
    kind = _read_kind(folder, card.name)
    settings = read_preprocessing(folder, card.name)
    transformers = _transformers(card.name)
    cls = getattr(transformers, kind.model)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = cls(config)
    except Exception as error:
        raise BackboneError(
            f"backbone '{card.name}': transformers cannot build {folder / CONFIG}: {_line(error)}",
            "fetch the model again",
        ) from None
    anatomy = kind.text(model)
    weights = model_files(card)[0]
    projection: Any = anatomy.projection
    return {
        "state": "found",
        "path": folder,
        "sha256": hash_weights(weights),
        "activation": str(config.text_config.hidden_act),
        "activation_right": True,
        "preprocessing": settings,
        "image_size": min(settings["size"]),
        "token_width": anatomy.token_embedding.embedding_dim,
        "embed_dim": projection.out_features,
        "context_length": anatomy.context_length,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _read_kind(folder: Path, name: str) -> Kind:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        found = str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackboneError(
            f"backbone '{name}': cannot read {folder / CONFIG}: {error}", "fetch the model again"
        ) from None
    if found not in KINDS:
        raise BackboneError(
            f"backbone '{name}': models of type '{found}' are not supported",
            f"supported: {', '.join(KINDS)}",
        )
    return KINDS[found]


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise BackboneError(
            f"backbone '{name}' needs the package transformers", "pip install 'compatbench[hf]'"
        ) from None
    return transformers


def _line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
