"""Describe a backbone and the state of its weights, without running the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from compatbench.backbone.build import build_architecture, build_tokenizer
from compatbench.backbone.hf import load_hf_tokenizer
from compatbench.backbone.load.backbone_names import (
    check_release,
    model_config,
    read_backbone,
    release_facts,
)
from compatbench.backbone.load.checkpoint import fit_weights
from compatbench.backbone.load.find_weights import find_weights
from compatbench.backbone.load.weights import hash_weights, locate_weights
from compatbench.backbone.needed_files import describe_tokenizer, describe_weights
from compatbench.backbone.text.text_anatomy import text_tower
from compatbench.data.cards import BackboneCard, SuiteCard
from compatbench.errors import BackboneError, CompatbenchError, MissingWeights


@dataclass(frozen=True)
class BackboneReport:
    """The facts about a backbone that are known before it is used."""

    name: str  # as it was given
    title: str  # of its card; the name, if it has none
    # ``missing``: its weights are not on this machine; ``wrong``: they are damaged or of another
    # architecture, or the name is wrong.
    state: Literal["found", "missing", "wrong"]
    path: Path | None = None  # the weights file, or the model's folder
    sha256: str | None = None  # of the weights file
    size: str = ""  # of the weights file; "about ..." if it follows from the parameters
    download: int = 0  # bytes of the weights, if they are missing and their size is known
    licence: str = ""  # of the weights
    tokenizer: str = ""  # the file, if it is not part of open_clip or the model's folder
    activation: str = ""  # of the text tower's MLPs, such as ``QuickGELU``
    # True if the weights were trained with it; None if that is unknown, as for a file that was
    # named without its tag.
    activation_right: bool | None = None
    # How an image becomes a tensor: size, mean, std, interpolation, resize mode.
    preprocessing: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None  # side of an image, in pixels
    token_width: int | None = None  # width D of the text tower's token embeddings
    embed_dim: int | None = None  # size e of the embedding space
    context_length: int | None = None  # tokens of the longest text
    parameters: int | None = None  # of the whole model
    message: str = ""  # what is wrong or missing, in one line; empty if nothing is
    fix: str = ""  # what to do about it


def inspect_backbone(name: str, suite: SuiteCard | None = None) -> BackboneReport:
    """Report all that is known about a backbone without running it.

    The model is built without memory (on torch's meta device); weights that are on this
    machine are checked against its names and shapes. Nothing is downloaded or raised: errors
    are part of the report. ``suite`` is the one that names it, if any does.
    """
    facts: dict[str, Any] = {"name": name, "title": name, "state": "wrong"}
    try:
        card = read_backbone(name, suite)
        is_open_clip = card.provider == "open_clip"
        facts["title"] = card.title
        if is_open_clip:
            facts |= _describe_activation(card)
        check_release(card)
        model = build_architecture(card, device="meta")
        facts |= _describe_sizes(model, card)
        file = describe_weights(card, ask_hub=False)
        facts |= {"size": file.size_in_words, "licence": file.licence}
        if file.path is None:
            facts["download"] = file.size or 0
        weights = find_weights(card)
        facts["path"] = weights if is_open_clip else weights.parent
        locate_weights(card, download=False)
        facts["sha256"] = hash_weights(weights)
        if is_open_clip:
            fit_weights(model, weights, card)
            build_tokenizer(card, facts["context_length"], download=False)
            tokenizer = describe_tokenizer(card)
            if tokenizer is not None:
                facts["tokenizer"] = str(tokenizer.path)
        else:
            load_hf_tokenizer(card, facts["context_length"])
        facts["state"] = "found"
    except BackboneError as error:
        if isinstance(error, MissingWeights):
            facts["state"] = "missing"
        facts |= {"message": error.problem, "fix": error.fix}
    except CompatbenchError as error:
        facts["message"] = str(error)
    return BackboneReport(**facts)


def _describe_activation(card: BackboneCard) -> dict[str, Any]:
    """Return the activation of a model of open_clip, and whether its weights need another."""
    config = model_config(card)
    if not config:
        return {}
    is_quick = bool(config.get("quick_gelu", False))
    release = release_facts(card)
    # A card that names its weights was checked when it was written.
    is_right = None
    if card.weights is not None:
        is_right = True
    elif release:
        is_right = bool(release.get("quick_gelu", False)) == is_quick
    return {"activation": "QuickGELU" if is_quick else "GELU", "activation_right": is_right}


def _describe_sizes(model: nn.Module, card: BackboneCard) -> dict[str, Any]:
    """Return the sizes of a model and its preprocessing; for transformers the activation, too."""
    tower: Any = text_tower(model)
    if card.provider == "hf":
        projection: Any = getattr(tower, "text_projection", None)
        if hasattr(model, "text_anatomy"):
            tower = model.text_anatomy()  # type: ignore[operator]
            projection = tower.projection
        facts: dict[str, Any] = {"activation": model.activation, "activation_right": True}
        if isinstance(projection, nn.Linear):
            facts["embed_dim"] = projection.out_features
        else:
            facts["embed_dim"] = projection.shape[1]
    else:
        facts = {"embed_dim": model_config(card).get("embed_dim")}
    visual: Any = model.visual
    preprocessing = dict(visual.preprocess_cfg)
    size = preprocessing["size"]
    facts["preprocessing"] = preprocessing
    facts["image_size"] = size if isinstance(size, int) else min(size)
    facts["token_width"] = tower.token_embedding.embedding_dim
    facts["context_length"] = tower.context_length
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return facts
