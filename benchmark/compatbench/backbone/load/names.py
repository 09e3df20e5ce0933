"""The names of backbones: those of cards, and names that need no card."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from compatbench.backbone.load.open_clip_models import LOCAL_DIR, model_names, tags_of
from compatbench.data.cards import BackboneCard, backbone_cards, unknown_name
from compatbench.errors import BackboneError, CompatbenchError
from compatbench.files.project_folders import tasks_folder

_HUGGING_FACE = "hf:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_KINDS_OF_NAMES = (
    "name a card ('compatbench list backbones'), MODEL/TAG of open_clip, MODEL@FILE or "
    "MODEL/TAG@FILE for a checkpoint, local-dir:FOLDER, or hf:FOLDER"
)


def read_backbone(name: str) -> BackboneCard:
    """Reads the card of a backbone; for a name without a card, makes one.

    Nothing is loaded or downloaded. ``MODEL/TAG`` and ``MODEL/TAG@FILE`` take what is known
    of the release (lineage, licence) from the card that describes it.

    Args:
        name: of a card (``vit-b16-openai``) or the path of one (``./mine.yaml``);
            ``MODEL/TAG``, a release of open_clip; ``MODEL@FILE`` or ``MODEL/TAG@FILE``, a
            checkpoint; ``local-dir:FOLDER``, a model's folder with
            ``open_clip_config.json``; or ``hf:FOLDER`` or ``hf:OWNER/NAME``, a model of
            transformers.

    Returns:
        The card, with ``name`` as it was given.

    Raises:
        CompatbenchError: no such card, model, tag, file or folder; or an invalid card.
    """
    if name.endswith((".yaml", ".yml")) and "@" not in name:
        return backbone_cards.read(name).model_copy(update={"name": name})
    if name.startswith(LOCAL_DIR):
        folder = _folder(name, name.removeprefix(LOCAL_DIR), "open_clip_config.json")
        return _make_card(name, path=folder)
    if name.startswith(_HUGGING_FACE):
        place = name.removeprefix(_HUGGING_FACE)
        if _REPOSITORY.fullmatch(place) and not Path(place).is_dir():
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
    raise BackboneError(unknown_name(name, backbone_cards.names(), "backbone"), _KINDS_OF_NAMES)


def _read_release(name: str) -> BackboneCard:
    """The card of ``MODEL/TAG``, ``MODEL@FILE`` or ``MODEL/TAG@FILE``."""
    release, at, file = name.partition("@")
    model, slash, tag = release.partition("/")
    if model not in model_names():
        problem = unknown_name(model, model_names(), "open_clip model")
        raise BackboneError(f"backbone '{name}': {problem}", _KINDS_OF_NAMES)
    if slash and tag not in tags_of(model):
        raise BackboneError(
            f"backbone '{name}': {unknown_name(tag, tags_of(model), f'tag of {model}')}",
            f"the tags of a model are those of open_clip; or give {model}@FILE",
        )
    path = str(Path(file).expanduser().absolute()) if at else None
    if path is not None and not Path(path).is_file():
        raise BackboneError(f"backbone '{name}': there is no file {path}", "correct the path")
    known = _cards_by_release(tasks_folder()).get((model, tag)) if slash else None
    if known is not None:
        return known.model_copy(update={"name": name, "path": path})
    return _make_card(name, config=model, tag=tag or None, path=path)


def _folder(name: str, place: str, config: str) -> str:
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
    facts = {"name": "unnamed", "title": name, "lineage": "unknown", "licence": "unknown"}
    card = BackboneCard.model_validate(facts | values)
    # This name is not a file's name: it may hold characters that a card's name may not.
    return card.model_copy(update={"name": name})


@cache
def _cards_by_release(folder: Path) -> dict[tuple[str, str], BackboneCard]:
    """The cards of a folder that describe a release of open_clip."""
    found = {}
    for name in backbone_cards.names():
        try:
            card = backbone_cards.read(name)
        except CompatbenchError:
            continue  # an invalid card concerns only those who ask for it
        if card.config and card.tag:
            found.setdefault((card.config, card.tag), card)
    return found
