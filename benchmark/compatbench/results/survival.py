"""Does a module survive an upgrade? The verdict on every untouched module, as a frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.results.ties import ALPHA, holm, paired_test
from compatbench.results.upgrade_rows import NOT_TRANSFERABLE

# The verdicts in the order of pages. The first three are those of ``judge_effect``.
VERDICTS = ("gains", "cannot tell", "loses", "cannot be attached", "not ranked", "not measured")
# Methods that most readers know: bold in the first table, and named in a scatter.
WELL_KNOWN = frozenset(
    {
        "clip_adapter",
        "clip_lora",
        "cocoop",
        "contcoop",
        "coop",
        "kgcoop",
        "maple",
        "proker",
        "promptsrc",
        "taskres",
        "tip_adapter",
    }
)


def judge_survival(rankings: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return what becomes of each untouched module on each upgrade, methods by title.

    Methods that learn nothing have no module and are left out, as are methods that see the test
    images.

    Args:
        rankings: for each kind of upgrade, the frame of ``rank_methods`` for one upgrade.

    Returns:
        A row per kind of upgrade and method: ``kind``, ``method``, ``title``, ``paper``; ``gain``
        over the new model's zero-shot in points, with ``gain_low`` and ``gain_high`` (95 % over
        tasks); ``with_words``, True if the method reads a list of words when it is attached;
        ``verdict``, one of ``VERDICTS``; and ``unranked``, the reason of a suite that does not rank
        the method.
    """
    parts = []
    for kind, ranking in rankings.items():
        untouched = ranking["transfer"] == COPIED
        modules = ranking[untouched & ranking["learns"] & ~ranking["sees_tests"]]
        rows = modules[["state", "effect"]].itertuples(index=False, name=None)
        verdicts = [_judge(state, effect) for state, effect in rows]
        columns = ["method", "title", "paper", "gain", "gain_low", "gain_high", "unranked"]
        part = modules[columns].assign(
            kind=kind, with_words=modules["ranked_with"] != COPIED, verdict=verdicts
        )
        parts.append(part.sort_values("title", key=lambda titles: titles.str.lower()))
    return pd.concat(parts, ignore_index=True)


def _judge(state: str, effect: str) -> str:
    if state == NOT_TRANSFERABLE:
        return "cannot be attached"
    if state == "not ranked":
        return state
    return effect or "not measured"


def count_after_correction(gains: pd.DataFrame) -> tuple[int, int]:
    """Return how many modules still gain and lose after Holm's correction for all of them.

    Args:
        gains: over the new model's zero-shot, ``[modules, tasks]``, in points.
    """
    means = gains.mean(axis="columns").to_numpy()
    zero = np.zeros((1, gains.shape[1]))
    # A gain is a paired difference from zero-shot, whose own gain is 0.
    p_values = np.array(holm(paired_test(np.vstack([zero, gains.to_numpy()]))))
    significant = p_values < ALPHA
    return int((significant & (means > 0)).sum()), int((significant & (means < 0)).sum())
