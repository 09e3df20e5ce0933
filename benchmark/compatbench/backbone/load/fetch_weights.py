"""Fetches the weights of backbones into the caches in which they are looked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compatbench.backbone.load.names import read_backbone
from compatbench.backbone.load.weights import locate_weights
from compatbench.data.cards import backbone_cards, suite_cards
from compatbench.errors import CompatbenchError


@dataclass(frozen=True)
class FetchedWeights:
    """What came of fetching a backbone's weights."""

    name: str
    licence: str
    file: Path | None  # the weights, checked; None if they could not be had
    problem: str = ""  # then why, and what to do


def fetch_backbones(
    backbones: str | Sequence[str] = (),
    suite: str | None = None,
    *,
    progress: Callable[[str], object] = lambda _: None,
) -> list[FetchedWeights]:
    """Downloads the weights of backbones that are not on this machine, and checks all of them.

    Args:
        backbones: names of cards, globs or comma lists of these, or ``MODEL/TAG``.
        suite: fetch those of all upgrades of a suite.
        progress: called with the name of each before it is looked for.

    Returns:
        A record per backbone. What could not be had says why in its ``problem``.

    Raises:
        CompatbenchError: an unknown name or suite, or a broken card.
    """
    names = []
    for name in [backbones] if isinstance(backbones, str) else backbones:
        plain = not set("/@:").intersection(name)  # others need no card
        names += backbone_cards.select_names(name) if plain else [name]
    if suite is not None:
        names += [name for upgrade in suite_cards.read(suite).upgrades for name in upgrade]
    if not names:
        raise CompatbenchError("nothing to fetch: name backbones, or a suite")
    fetched = []
    for card in [read_backbone(name) for name in dict.fromkeys(names)]:
        progress(card.name)
        try:
            fetched.append(FetchedWeights(card.name, card.licence, locate_weights(card)))
        except CompatbenchError as error:
            fetched.append(FetchedWeights(card.name, card.licence, None, str(error)))
    return fetched
