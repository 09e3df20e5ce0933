"""Recognises published weights by the SHA-256 of their file, whatever the file is called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from compatbench.backbone.load.names import (
    QUICK,
    cards_by_release,
    uses_quick_gelu,
    wrong_activation,
)
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError
from compatbench.files.project_folders import tasks_folder

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGITS = 8  # of the hash, in the names of open_clip's files


@dataclass(frozen=True)
class Release:
    """Published weights, by open_clip's names."""

    model: str  # the architecture, without the mark of its activation
    tag: str
    quick_gelu: bool

    def __str__(self) -> str:
        return f"{self.model}{QUICK if self.quick_gelu else ''}/{self.tag}"


def published_hash(url: str) -> str:
    """The SHA-256 that a download address holds; empty if it holds none.

    OpenAI's addresses have all 64 digits, those of open_clip's own releases the first 8.
    """
    found = url.split("/")[-2] if "openaipublic" in url else Path(url).stem.split("-")[-1]
    short = "/open_clip/releases/" in url and len(found) == _DIGITS
    return found if short or _SHA256.fullmatch(found) else ""


def recognise(digest: str) -> Release | None:
    """The release that a weights file is, by its SHA-256; None if no such hash is known.

    Known are the hashes in download addresses and those on the built-in cards.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained

    cards = cards_by_release(tasks_folder())
    for model, tag in list_pretrained():
        facts = get_pretrained_cfg(model, tag)
        card = cards.get((model, tag))
        hashes = {published_hash(facts.get("url", "")), *(card.hashes.values() if card else ())}
        if hashes & {digest, digest[:_DIGITS]}:
            return Release(model.removesuffix(QUICK), tag, bool(facts.get("quick_gelu", False)))
    return None


def check_recognised(card: BackboneCard, path: Path, release: Release) -> None:
    """Refuses the weights of one release under the name, or with the activation, of another."""
    if release.quick_gelu != uses_quick_gelu(card):
        raise wrong_activation(
            card, f"the weights {path}, which are {release},", release.quick_gelu
        )
    if card.tag not in (None, release.tag):
        raise BackboneError(
            f"backbone '{card.name}': the weights {path} are {release}, not '{card.tag}'",
            f"name them so ({release}@FILE), or give the file of '{card.tag}'",
        )
