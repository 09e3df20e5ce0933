"""What a backbone is and whether its weights are here, told without running an image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from compatbench.backbone.build import build_architecture, fit_weights
from compatbench.backbone.load.find import find_weights
from compatbench.backbone.load.hashes import hash_weights
from compatbench.backbone.load.keys import locate_weights
from compatbench.backbone.load.names import read_backbone
from compatbench.backbone.load.releases import check_release, model_config, release_facts
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError, CompatbenchError, MissingWeights


@dataclass(frozen=True)
class BackboneReport:
    """What can be said of a backbone before it is used.

    Attributes:
        name: as it was asked for.
        title: of its card; the name, if it has none.
        state: ``found``; ``missing``: its weights are not on this machine; ``wrong``: they
            are damaged, of another architecture, or the name asks for what cannot be.
        path: the weights file, or the model's folder.
        sha256: of the weights file.
        activation: of the text tower's MLPs, such as ``QuickGELU``.
        activation_right: whether the weights were made with it; None if nobody can know, as
            with a file that was named without its tag.
        preprocessing: how an image becomes a tensor: size, mean, std, interpolation,
            resize mode.
        image_size: side of an image, in pixels.
        token_width: width D of the text tower's token embeddings.
        embed_dim: size e of the joint space.
        context_length: tokens of the longest text.
        parameters: of the whole model.
        lineage: what the weights were initialised from.
        licence: of the weights.
        message: what is wrong or missing, in one line; empty if nothing is.
        fix: what to do about it, in one line; empty if nothing.
    """

    name: str
    title: str
    state: Literal["found", "missing", "wrong"]
    path: Path | None = None
    sha256: str | None = None
    activation: str = ""
    activation_right: bool | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    token_width: int | None = None
    embed_dim: int | None = None
    context_length: int | None = None
    parameters: int | None = None
    lineage: str = ""
    licence: str = ""
    message: str = ""
    fix: str = ""


def inspect_backbone(name: str) -> BackboneReport:
    """Tells all that can be known of a backbone without running it.

    The model is built without memory (on torch's meta device); of weights that are here,
    names and shapes are held against it. Nothing is fetched, and nothing is raised: what is
    wrong stands in the report.
    """
    report = BackboneReport(name, name, "wrong")
    try:
        card = read_backbone(name)
        about = {"title": card.title, "lineage": card.lineage, "licence": card.licence}
        report = dataclasses.replace(report, **about)
        if card.provider == "hf":
            from compatbench.backbone.hf import describe_hugging_face

            return dataclasses.replace(report, **describe_hugging_face(card))
        report = _describe_activation(report, card)
        check_release(card)
        model = build_architecture(card, device="meta")
        report = _describe_model(report, model, card)
        return _describe_weights(report, model, card)
    except CompatbenchError as error:
        return _blame(report, error)


def _describe_activation(report: BackboneReport, card: BackboneCard) -> BackboneReport:
    config = model_config(card)
    if config is None:
        return report
    quick, facts = bool(config.get("quick_gelu", False)), release_facts(card)
    right = bool(facts.get("quick_gelu", False)) == quick if facts else None
    return dataclasses.replace(
        report,
        activation="QuickGELU" if quick else "GELU",
        activation_right=True if card.weights is not None else right,
    )


def _describe_model(report: BackboneReport, model: nn.Module, card: BackboneCard) -> BackboneReport:
    tower: Any = model.text if isinstance(getattr(model, "text", None), nn.Module) else model
    settings: dict[str, Any] = dict(model.visual.preprocess_cfg)  # type: ignore[union-attr, call-overload]
    size = settings["size"]
    return dataclasses.replace(
        report,
        preprocessing=settings,
        image_size=size if isinstance(size, int) else min(size),
        token_width=tower.token_embedding.embedding_dim,
        embed_dim=(model_config(card) or {}).get("embed_dim"),
        context_length=tower.context_length,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _describe_weights(
    report: BackboneReport, model: nn.Module, card: BackboneCard
) -> BackboneReport:
    """Finds the weights, and holds their names and shapes against the model's."""
    path = find_weights(card)
    report = dataclasses.replace(report, path=path)
    try:
        locate_weights(card)
        report = dataclasses.replace(report, sha256=hash_weights(path))
        fit_weights(model, path, card)
    except BackboneError as error:
        return _blame(report, error)
    return dataclasses.replace(report, state="found")


def _blame(report: BackboneReport, error: CompatbenchError) -> BackboneReport:
    state: Literal["missing", "wrong"] = "missing" if isinstance(error, MissingWeights) else "wrong"
    if isinstance(error, BackboneError):
        return dataclasses.replace(report, state=state, message=error.problem, fix=error.fix)
    return dataclasses.replace(report, state=state, message=str(error))
