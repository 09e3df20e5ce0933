"""What open_clip knows of its models and of their weights."""

from __future__ import annotations

from typing import Any

from compatbench.backbone.mini import register_mini_towers
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError
from compatbench.files.project_folders import tasks_folder

_QUICK = "-quickgelu"
LOCAL_DIR = "local-dir:"


def model_names() -> list[str]:
    """The architectures that open_clip can build by name."""
    import open_clip

    register_mini_towers(tasks_folder())
    return open_clip.list_models()


def tags_of(model: str) -> list[str]:
    """The weights that open_clip knows for a model."""
    from open_clip.pretrained import list_pretrained_tags_by_model

    return list_pretrained_tags_by_model(model)


def release_facts(card: BackboneCard) -> dict[str, Any]:
    """open_clip's facts on the weights of a card: where they are, preprocessing, activation."""
    from open_clip.pretrained import get_pretrained_cfg

    return get_pretrained_cfg(card.config, card.tag) if card.config and card.tag else {}


def check_release(card: BackboneCard) -> None:
    """Refuses a model that the weights were not made for.

    Raises:
        BackboneError: no such model or tag, or the other activation: with GELU in place of
            QuickGELU the model runs, and is worse by points.
    """
    if card.config is None:
        return
    if card.config not in model_names():
        raise BackboneError(
            f"backbone '{card.name}': open_clip has no model '{card.config}'",
            "mend 'config', or install a newer open_clip",
        )
    if card.tag is None:
        return
    facts = release_facts(card)
    if not facts:
        raise BackboneError(
            f"backbone '{card.name}': open_clip knows no weights '{card.tag}' of '{card.config}'",
            f"known tags: {', '.join(tags_of(card.config)) or 'none'}",
        )
    wanted = bool(facts.get("quick_gelu", False))
    if wanted != uses_quick_gelu(card.config):
        raise wrong_activation(card.name, card.config, f"the weights '{card.tag}'", wanted)


def wrong_activation(name: str, config: str, what: str, quick: bool) -> BackboneError:
    """The error for weights that were made with another activation than the model's."""
    right = config + _QUICK if quick else config.removesuffix(_QUICK)
    kinds = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    return BackboneError(
        f"backbone '{name}': {what} were trained with {kinds[0]}, but the model '{config}' "
        f"computes {kinds[1]}",
        f"use the model '{right}'",
    )


def uses_quick_gelu(config: str) -> bool:
    """Whether a model of open_clip is built with QuickGELU."""
    import open_clip

    return bool((open_clip.get_model_config(config) or {}).get("quick_gelu", False))


def open_clip_name(card: BackboneCard) -> str:
    """What open_clip is to build: a model that it knows, or one with its own configuration."""
    return card.config or f"{LOCAL_DIR}{card.path}"


def model_config(card: BackboneCard) -> dict[str, Any] | None:
    """open_clip's configuration of a card's model, if it has one that can be read."""
    import open_clip

    register_mini_towers(tasks_folder())
    try:
        return open_clip.get_model_config(open_clip_name(card))
    except (OSError, ValueError, RecursionError):
        return None


def preprocessing(card: BackboneCard) -> dict[str, Any] | None:
    """How the weights' makers turn an image into a tensor; None for open_clip's default.

    A checkpoint that is named without its tag takes what all tags of its model agree on.

    Raises:
        BackboneError: they do not agree.
    """
    if card.tag is not None:
        return _settings(release_facts(card))
    if card.config is None or card.weights is not None:
        return None
    from open_clip.pretrained import get_pretrained_cfg

    tags = tags_of(card.config)
    found = [_settings(get_pretrained_cfg(card.config, tag)) for tag in tags]
    kinds = {repr(settings): settings for settings in found}
    if len(kinds) > 1:
        raise BackboneError(
            f"backbone '{card.name}': the weights of '{card.config}' were made with different "
            "normalisations of images, and a file does not say which",
            f"name the release: {card.config}/TAG@FILE, with a tag of {', '.join(tags)}",
        )
    return next(iter(kinds.values()), None)


def _settings(facts: dict[str, Any]) -> dict[str, Any]:
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    settings = merge_preprocess_dict(PreprocessCfg(), facts)
    del settings["size"]  # the model's
    return settings
