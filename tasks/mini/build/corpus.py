"""Step ``corpus``: the drawings that a model sees in pre-training, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from .captions import CaptionWriter
from .names import table_path
from .render import load_drawings
from .sets import Role, icon_sets

MIN_DRAWINGS_PER_CONCEPT = 3
EMOJI_SHARE = 0.6
SKIN_TONE_WEIGHT = 0.15


@dataclass(frozen=True)
class Corpus:
    """Image-text data for one model.

    Attributes:
        drawings: uint8 [N, 48, 48, 4], RGBA.
        monochrome: bool [N]; such drawings take any colour.
        concepts: int64 [N]; equal numbers mean the same concept.
        weights: float64 [N], the chance of each drawing to be drawn; sums to 1.
        captions: Writes the captions.
    """

    drawings: torch.Tensor
    monochrome: torch.Tensor
    concepts: torch.Tensor
    weights: np.ndarray
    captions: CaptionWriter

    def __len__(self) -> int:
        return len(self.drawings)


def pretraining_table(work: Path, *roles: Role) -> pd.DataFrame:
    """The drawings of the sets with the given roles that are named well enough.

    An emoji needs a label; an icon's concept needs a few drawings over all
    pre-training sets, because rare names are mostly brands and interface jargon.
    """
    table = pd.read_parquet(table_path(work))
    if "held-out" in roles:
        raise ValueError("Held-out sets must not enter pre-training.")
    counts = table.concept[table.role != "held-out"].value_counts()
    named = (table.emoji & (table.label != "")) | (
        ~table.emoji & (table.concept.map(counts) >= MIN_DRAWINGS_PER_CONCEPT)
    )
    return table[table.role.isin(roles) & named].reset_index(drop=True)


def load_corpus(work: Path, *roles: Role) -> Corpus:
    """Loads drawings, names and weights of the pre-training corpus of the given roles."""
    table = pretraining_table(work, *roles)
    monochrome = table.set.map({s.name: s.monochrome for s in icon_sets().values()})
    return Corpus(
        drawings=torch.from_numpy(load_drawings(work, table)),
        monochrome=torch.from_numpy(monochrome.to_numpy(bool, copy=True)),
        concepts=torch.from_numpy(pd.factorize(table.concept)[0].astype(np.int64)),
        weights=_weights(table),
        captions=CaptionWriter.for_table(table),
    )


def _weights(table: pd.DataFrame) -> np.ndarray:
    emoji = table.emoji.to_numpy(float)
    tone = np.where(table.tone > 0, SKIN_TONE_WEIGHT, 1.0)
    weights = np.zeros(len(table))
    for share, part in ((EMOJI_SHARE, emoji), (1 - EMOJI_SHARE, 1 - emoji)):
        weights += share * part * tone / (part * tone).sum()
    return weights
