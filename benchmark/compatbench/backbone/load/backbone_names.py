"""Names of backbones, and open_clip's facts about their models and published weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from compatbench.backbone.load.mini_towers import register_mini_towers
from compatbench.data.cards import BackboneCard, SuiteCard, backbone_cards, unknown_name
from compatbench.data.cards.names import REPOSITORY
from compatbench.errors import BackboneError, CompatbenchError, MissingWeights
from compatbench.files.project_folders import CARDS_VARIABLE, tasks_folder

LOCAL_DIR = "local-dir:"
QUICK = "-quickgelu"
_HUGGING_FACE = "hf:"
_DIGITS = 8  # of the hash, in the names of open_clip's files
_KINDS_OF_NAMES = (
    "name a card ('compatbench list backbones'), MODEL/TAG of open_clip, MODEL@FILE or "
    "MODEL/TAG@FILE for a checkpoint, local-dir:FOLDER, or hf:FOLDER"
)


def read_backbone(name: str, suite: SuiteCard | None = None) -> BackboneCard:
    """Read the card of a backbone, by its name or path; for a name without a card, make one.

    Nothing is loaded or downloaded. The names are those of docs/backbones.md. ``MODEL/TAG`` and
    ``MODEL/TAG@FILE`` take what is known of the release (lineage, licence) from its card. The
    card's ``name`` is as it was given.

    Raises:
        BackboneError: an unknown name. If the ``suite`` that names it has ``made_by``, the error
            is ``MissingWeights``, and says how to make the card and the weights.
    """
    if name.endswith((".yaml", ".yml")) and "@" not in name:
        return backbone_cards.read(name).model_copy(update={"name": name})
    if name.startswith(LOCAL_DIR):
        folder = _folder(name, name.removeprefix(LOCAL_DIR), "open_clip_config.json")
        return _make_card(name, path=folder)
    if name.startswith(_HUGGING_FACE):
        place = name.removeprefix(_HUGGING_FACE)
        is_repository = "/" in place and re.fullmatch(REPOSITORY, place)
        if is_repository and not Path(place).is_dir():
            return _make_card(name, provider="hf", repository=place)
        return _make_card(name, provider="hf", path=_folder(name, place, "config.json"))
    if "@" in name or "/" in name:
        return _read_release(name)
    if name in backbone_cards.names():
        return backbone_cards.read(name)
    if name in model_names():
        raise BackboneError(
            f"'{name}' is an architecture without weights",
            f"give {name}/TAG (known tags: {', '.join(tags_of(name)) or 'none'}) or {name}@FILE",
        )
    if suite is not None and suite.made_by:
        fix = (
            f"make it with '{suite.made_by}' and name the folder that it fills in {CARDS_VARIABLE}"
        )
        raise MissingWeights(f"backbone '{name}' does not ship", fix)
    raise _unknown_backbone(name)


def _unknown_backbone(name: str) -> BackboneError:
    problem = unknown_name(name, backbone_cards.names(), "backbone")
    fix = _KINDS_OF_NAMES
    if problem.endswith("?"):  # it suggests names
        fix = "list all: compatbench list backbones"
    return BackboneError(problem, fix)


def check_plain_name(name: str) -> None:
    """Raise ``BackboneError`` for a misspelt name of a card, without loading open_clip.

    Other names are left to ``read_backbone``: paths, releases, globs, lists and architectures.
    """
    if any(character in name for character in "@/:,*?[") or name.endswith((".yaml", ".yml")):
        return
    if name != "all" and name not in backbone_cards.names() and not _is_architecture(name):
        raise _unknown_backbone(name)


def _is_architecture(name: str) -> bool:
    """Return True if open_clip, which is not loaded, has a configuration of this name."""
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        return False
    return (Path(spec.origin).parent / "model_configs" / f"{name}.json").is_file()


def _read_release(name: str) -> BackboneCard:
    """Return the card of ``MODEL/TAG``, ``MODEL@FILE`` or ``MODEL/TAG@FILE``."""
    release, at, file = name.partition("@")
    model, slash, tag = release.partition("/")
    _check_known(name, model, tag if slash else None)
    path = None
    if at:
        path = str(Path(file).expanduser().absolute())
        if not Path(path).is_file():
            raise BackboneError(f"backbone '{name}': there is no file {path}", "correct the path")
    if slash:
        known = cards_by_release(tasks_folder()).get((model, tag))
        if known is not None:
            return known.model_copy(update={"name": name, "path": path})
    return _make_card(name, config=model, tag=tag or None, path=path)


def _check_known(name: str, model: str, tag: str | None) -> None:
    """Raise ``BackboneError`` for a model, or weights of it, that open_clip does not have."""
    if model not in model_names():
        problem = unknown_name(model, model_names(), "open_clip model")
        raise BackboneError(f"backbone '{name}': {problem}", _KINDS_OF_NAMES)
    if tag is not None and tag not in tags_of(model):
        problem = unknown_name(tag, tags_of(model), f"tag of {model}")
        raise BackboneError(f"backbone '{name}': {problem}", f"correct it, or give {model}@FILE")


def _folder(name: str, place: str, config: str) -> str:
    """Return the absolute path of a model's folder that has the file ``config``."""
    folder = Path(place).expanduser().absolute()
    if not folder.is_dir():
        raise BackboneError(f"backbone '{name}': there is no folder {folder}", "correct the path")
    if not (folder / config).is_file():
        raise BackboneError(
            f"backbone '{name}': {folder} has no {config}",
            "give the folder of a model with its configuration beside the weights",
        )
    return str(folder)


def _make_card(name: str, **values: object) -> BackboneCard:
    """Return a card of a name that has no card file."""
    facts = {"name": "unnamed", "title": name, "lineage": "unknown", "licence": "unknown"}
    card = BackboneCard.model_validate(facts | values)
    # This name is not a file's name: it may hold characters that a card's name may not.
    return card.model_copy(update={"name": name})


@cache
def cards_by_release(folder: Path) -> dict[tuple[str, str], BackboneCard]:
    """Return the cards of a folder that describe a release of open_clip, by model and tag."""
    cards: dict[tuple[str, str], BackboneCard] = {}
    for name in backbone_cards.builtin_names():
        try:
            card = backbone_cards.read(name)
        except CompatbenchError:
            continue  # report an invalid card only to those who name it
        if card.config and card.tag:
            cards.setdefault((card.config, card.tag), card)
    return cards


def model_names() -> list[str]:
    """Return the names of the architectures that open_clip can build."""
    import open_clip

    register_mini_towers(tasks_folder())
    return open_clip.list_models()


def tags_of(model: str) -> list[str]:
    """Return the tags of the weights that open_clip knows for a model."""
    from open_clip.pretrained import list_pretrained_tags_by_model

    return list_pretrained_tags_by_model(model)


def open_clip_name(card: BackboneCard) -> str:
    """Return the name by which open_clip builds a card's model."""
    return card.config or f"{LOCAL_DIR}{card.path}"


def model_config(card: BackboneCard) -> dict[str, Any]:
    """Return open_clip's configuration of a card's model; empty if none can be read."""
    import open_clip

    register_mini_towers(tasks_folder())
    try:
        return open_clip.get_model_config(open_clip_name(card)) or {}
    except (OSError, ValueError, RecursionError):
        return {}


def release_facts(card: BackboneCard) -> dict[str, Any]:
    """Return open_clip's facts about a card's weights: address, preprocessing, activation."""
    from open_clip.pretrained import get_pretrained_cfg

    if card.config and card.tag:
        return get_pretrained_cfg(card.config, card.tag)
    return {}


def check_release(card: BackboneCard) -> None:
    """Raise ``BackboneError`` for unknown weights, or weights made with another activation."""
    if card.config is not None:
        _check_known(card.name, card.config, card.tag)
        if card.tag is not None:
            quick = bool(release_facts(card).get("quick_gelu", False))
            check_activation(card, f"the weights '{card.tag}'", quick)


def check_activation(card: BackboneCard, weights: str, quick: bool) -> None:
    """Raise ``BackboneError`` for weights trained with another activation than the model's.

    With GELU in place of QuickGELU a model runs, but loses several points of accuracy.

    Args:
        card: the card of the backbone.
        weights: the weights, for the message.
        quick: True if they were trained with QuickGELU.
    """
    if bool(model_config(card).get("quick_gelu", False)) == quick:
        return
    config = card.config or str(card.path)
    if card.config is None:
        value = str(quick).lower()
        fix = f"set 'quick_gelu: {value}' in the model_cfg of open_clip_config.json"
    elif quick:
        fix = f"use the model '{config}{QUICK}'"
    else:
        fix = f"use the model '{config.removesuffix(QUICK)}'"
    trained = "QuickGELU" if quick else "GELU"
    computed = "GELU" if quick else "QuickGELU"
    raise BackboneError(
        f"backbone '{card.name}': {weights} were trained with {trained}, but the model "
        f"'{config}' computes {computed}",
        fix,
    )


class Release(NamedTuple):
    """Published weights, by open_clip's names."""

    model: str  # the architecture, without the mark of its activation
    tag: str
    quick_gelu: bool

    def __str__(self) -> str:
        suffix = QUICK if self.quick_gelu else ""
        return f"{self.model}{suffix}/{self.tag}"


def published_hash(url: str) -> str:
    """Return the first digits of the SHA-256 in one of open_clip's own addresses; else ''."""
    last_part = Path(url).stem.split("-")[-1]
    if "/open_clip/releases/" in url and len(last_part) == _DIGITS:
        return last_part
    return ""


def recognise(digest: str) -> Release | None:
    """Return the release of the weights file with this SHA-256; None if it is not known.

    The known hashes are those on the built-in cards and in open_clip's own addresses.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained

    cards = cards_by_release(tasks_folder())
    for model, tag in list_pretrained():
        facts = get_pretrained_cfg(model, tag)
        hashes = {published_hash(facts.get("url", ""))}
        card = cards.get((model, tag))
        if card is not None:
            hashes.update(card.hashes.values())
        if hashes & {digest, digest[:_DIGITS]}:
            quick = bool(facts.get("quick_gelu", False))
            return Release(model.removesuffix(QUICK), tag, quick)
    return None


def preprocessing(card: BackboneCard) -> dict[str, Any] | None:
    """Return the preprocessing of images that weights were trained with; None for the default.

    A checkpoint that is named without its tag gets the preprocessing of all tags of its model.

    Raises:
        BackboneError: these tags have different preprocessing.
    """
    from open_clip.pretrained import get_pretrained_cfg
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    if card.config is None or (card.tag is None and card.weights is not None):
        return None
    tags = tags_of(card.config) if card.tag is None else [card.tag]
    defaults = PreprocessCfg()
    choices = []
    for tag in tags:
        settings = merge_preprocess_dict(defaults, get_pretrained_cfg(card.config, tag))
        del settings["size"]  # the model decides it
        choices.append(settings)
    if any(settings != choices[0] for settings in choices):
        raise BackboneError(
            f"backbone '{card.name}': the weights of '{card.config}' were made with different "
            "normalisations of images, and a file does not say which",
            f"name the release: {card.config}/TAG@FILE, with a tag of {', '.join(tags)}",
        )
    return choices[0] if choices else None


@contextmanager
def quiet() -> Iterator[None]:
    """Hide open_clip's warning that no pretrained weights are loaded; they are loaded later."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
