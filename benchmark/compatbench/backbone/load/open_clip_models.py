"""What open_clip knows about its models and their published weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compatbench.backbone.mini import register_mini_towers
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError
from compatbench.files.project_folders import tasks_folder

LOCAL_DIR = "local-dir:"
_QUICK = "-quickgelu"


def model_names() -> list[str]:
    """The architectures that open_clip can build by name."""
    import open_clip

    register_mini_towers(tasks_folder())
    return open_clip.list_models()


def tags_of(model: str) -> list[str]:
    """The weights that open_clip knows for a model."""
    from open_clip.pretrained import list_pretrained_tags_by_model

    return list_pretrained_tags_by_model(model)


def open_clip_name(card: BackboneCard) -> str:
    """The name by which open_clip builds a card's model."""
    return card.config or f"{LOCAL_DIR}{card.path}"


def model_config(card: BackboneCard) -> dict[str, Any]:
    """open_clip's configuration of a card's model; empty if there is none that can be read."""
    import open_clip

    register_mini_towers(tasks_folder())
    try:
        return open_clip.get_model_config(open_clip_name(card)) or {}
    except (OSError, ValueError, RecursionError):
        return {}


def release_facts(card: BackboneCard) -> dict[str, Any]:
    """open_clip's facts about the weights of a card: address, preprocessing, activation."""
    from open_clip.pretrained import get_pretrained_cfg

    return get_pretrained_cfg(card.config, card.tag) if card.config and card.tag else {}


def check_release(card: BackboneCard) -> None:
    """Checks that the weights were made for the card's model.

    Raises:
        BackboneError: no such model or tag, or the wrong activation: with GELU in place of
            QuickGELU the model runs, but loses several points of accuracy.
    """
    if card.config is None:
        return
    if card.config not in model_names():
        raise BackboneError(
            f"backbone '{card.name}': open_clip has no model '{card.config}'",
            "correct 'config', or install a newer open_clip",
        )
    if card.tag is None:
        return
    facts = release_facts(card)
    if not facts:
        raise BackboneError(
            f"backbone '{card.name}': open_clip knows no weights '{card.tag}' of '{card.config}'",
            f"known tags: {', '.join(tags_of(card.config)) or 'none'}",
        )
    quick = bool(facts.get("quick_gelu", False))
    if quick != uses_quick_gelu(card):
        raise wrong_activation(card, f"the weights '{card.tag}'", quick)


def uses_quick_gelu(card: BackboneCard) -> bool:
    """Whether a card's model is built with QuickGELU."""
    return bool(model_config(card).get("quick_gelu", False))


def wrong_activation(card: BackboneCard, weights: str, quick: bool) -> BackboneError:
    """The error for weights that were trained with another activation than the model's."""
    config = card.config or ""
    right = config + _QUICK if quick else config.removesuffix(_QUICK)
    kinds = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    return BackboneError(
        f"backbone '{card.name}': {weights} were trained with {kinds[0]}, but the model "
        f"'{config}' computes {kinds[1]}",
        f"use the model '{right}'",
    )


def preprocessing(card: BackboneCard) -> dict[str, Any] | None:
    """How images were preprocessed when the weights were trained; None for open_clip's default.

    A checkpoint that is named without its tag takes what all tags of its model agree on.

    Raises:
        BackboneError: they do not agree.
    """
    from open_clip.pretrained import get_pretrained_cfg
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    if card.config is None or (card.tag is None and card.weights is not None):
        return None
    tags = tags_of(card.config) if card.tag is None else [card.tag]
    found = []
    for tag in tags:
        settings = merge_preprocess_dict(PreprocessCfg(), get_pretrained_cfg(card.config, tag))
        del settings["size"]  # the model's
        found.append(settings)
    if any(settings != found[0] for settings in found):
        raise BackboneError(
            f"backbone '{card.name}': the weights of '{card.config}' were made with different "
            "normalisations of images, and a file does not say which",
            f"name the release: {card.config}/TAG@FILE, with a tag of {', '.join(tags)}",
        )
    return found[0] if found else None


@contextmanager
def quiet() -> Iterator[None]:
    """Hides open_clip's warning that no pretrained weights are loaded: that is done later."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
