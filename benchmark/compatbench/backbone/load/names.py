"""The names of backbones: cards, and what needs no card."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from compatbench.backbone.load.releases import LOCAL_DIR, model_names, tags_of
from compatbench.data.cards import BackboneCard, backbone_cards, unknown_name
from compatbench.errors import BackboneError, CompatbenchError
from compatbench.files.project_folders import tasks_folder

HUGGING_FACE = "hf:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SCHEMES = (
    "name a card ('compatbench list backbones'), MODEL/TAG of open_clip, MODEL@FILE or "
    "MODEL/TAG@FILE for a checkpoint, local-dir:FOLDER, or hf:FOLDER"
)


def read_backbone(name: str) -> BackboneCard:
    """The card that a name means; for a name without a card, one made of the name.

    ``MODEL/TAG`` and ``MODEL/TAG@FILE`` take what is known of the release from the card
    that has it.

    Raises:
        CompatbenchError: no such card, model, tag or folder; or a broken card.
    """
    if name.endswith((".yaml", ".yml")) and "@" not in name:
        return backbone_cards.read(name).model_copy(update={"name": name})
    if name.startswith(LOCAL_DIR):
        folder = _folder(name, name.removeprefix(LOCAL_DIR), "open_clip_config.json")
        return _card(name, path=str(folder))
    if name.startswith(HUGGING_FACE):
        return _read_hugging_face(name, name.removeprefix(HUGGING_FACE))
    if "@" in name or "/" in name:
        return _read_release(name)
    if name in backbone_cards.names():
        return backbone_cards.read(name)
    if name in model_names():
        known = ", ".join(tags_of(name)) or "none"
        raise BackboneError(
            f"'{name}' is an architecture without weights",
            f"give {name}/TAG (known tags: {known}) or {name}@FILE",
        )
    raise BackboneError(unknown_name(name, backbone_cards.names(), "backbone"), SCHEMES)


def _read_release(name: str) -> BackboneCard:
    release, at, file = name.partition("@")
    model, slash, tag = release.partition("/")
    if model not in model_names():
        raise BackboneError(
            f"backbone '{name}': {unknown_name(model, model_names(), 'open_clip model')}", SCHEMES
        )
    if slash and tag not in tags_of(model):
        raise BackboneError(
            f"backbone '{name}': {unknown_name(tag, tags_of(model), f'tag of {model}')}",
            f"the tags of a model are those of open_clip; or give {model}@FILE",
        )
    path = None
    if at:
        path = str(Path(file).expanduser().absolute())
        if not Path(path).is_file():
            raise BackboneError(f"backbone '{name}': there is no file {path}", "mend the path")
    known = _cards_by_release(tasks_folder()).get((model, tag)) if slash else None
    if known is not None:
        return known.model_copy(update={"name": name, "path": path})
    return _card(name, config=model, tag=tag or None, path=path)


def _read_hugging_face(name: str, place: str) -> BackboneCard:
    if _REPOSITORY.fullmatch(place) and not Path(place).is_dir():
        return _card(name, provider="hf", repository=place)
    return _card(name, provider="hf", path=str(_folder(name, place, "config.json")))


def _folder(name: str, place: str, config: str) -> Path:
    folder = Path(place).expanduser().absolute()
    if not folder.is_dir():
        raise BackboneError(f"backbone '{name}': there is no folder {folder}", "mend the path")
    if not (folder / config).is_file():
        raise BackboneError(
            f"backbone '{name}': {folder} has no {config}",
            "give the folder of a model with its configuration beside the weights",
        )
    return folder


def _card(name: str, **values: object) -> BackboneCard:
    card = BackboneCard.model_validate(
        {"name": "unnamed", "title": name, "lineage": "unknown", "licence": "unknown"} | values
    )
    # Such a name is no file's name: it may hold what a card's name may not.
    return card.model_copy(update={"name": name})


@cache
def _cards_by_release(folder: Path) -> dict[tuple[str, str], BackboneCard]:
    """The cards of a folder that describe a release of open_clip."""
    found = {}
    for name in backbone_cards.names():
        try:
            card = backbone_cards.read(name)
        except CompatbenchError:
            continue  # a broken card harms only those who ask for it
        if card.config and card.tag:
            found.setdefault((card.config, card.tag), card)
    return found
