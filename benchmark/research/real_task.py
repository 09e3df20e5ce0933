"""Make the section of docs/findings.md on handwritten digits, where zero-shot only guesses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from scipy.stats import binomtest

import compatbench as cb
from compatbench.method.registry import builtin_methods
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import percent, signed
from compatbench.tables.table import plain_table

REPOSITORY = Path(__file__).parents[2]
SUITE = "mini-real"
SOURCE = "mini-clip"
TARGETS = {
    "mini-eva-clip": "keeps the old embedding space",
    "mini-eva-clip-anew": "has a new embedding space",
}
KINDS = ("prompts and updates of the text tower", "both towers, or the image tower", "features")
LEVEL = 0.05


def make_sections() -> dict[str, str]:
    """Return the table of verdicts by kind of method, and zero-shot's accuracies."""
    frame = cb.results(SUITE, REPOSITORY).frame
    copied = frame[frame["transfer"] == "copied"]
    accuracies = []
    for backbone in (SOURCE, *TARGETS):
        rows = copied[(copied["backbone"] == backbone) & (copied["method"] == "zeroshot")]
        accuracies.append(f"{percent(rows['accuracy'].mean())} % (`{backbone}`)")
    header = ["The module acts on", "Methods"]
    for title in TARGETS.values():
        header += [f"{title}: gain, lose", "median gain"]
    by_kind = pd.Series({name: find_kind(name) for name in copied["method"].unique()}).dropna()
    rows = []
    for kind in KINDS:
        methods = by_kind.index[by_kind == kind]
        row = [kind, str(len(methods))]
        for target in TARGETS:
            attached = copied[(copied["backbone"] == target) & (copied["status"] == "ok")]
            attached = attached[attached["method"].isin(methods)]
            verdicts = [judge(rows) for _, rows in attached.groupby("method")]
            gains = attached.groupby("method")["gain"].mean()
            row.append(f"{verdicts.count('gains')}, {verdicts.count('loses')}")
            row.append(signed(gains.median()))
        rows.append(row)
    text = f"Zero-shot's accuracies are {', '.join(accuracies)}; guessing has 10 %.\n\n"
    return {"digits": text + render_table(plain_table(header, rows, left=(0,)))}


def find_kind(name: str) -> str | None:
    """Return the kind of a method by where its module acts; None if it trains no module."""
    registry = builtin_methods()
    method = name.partition("+")[0]
    card = registry.get(method).card
    if not card.learns or "stream" in card.needs:
        return None
    places = set(card.places)
    if places & {"image-layers"}:
        return KINDS[1]
    if places & {"text-input", "text-layers"}:
        return KINDS[0]
    return KINDS[2]


def judge(rows: pd.DataFrame) -> str:
    """Return ``gains`` or ``loses`` if McNemar's exact test says so for every seed."""
    directions = set()
    for only_module, only_zero_shot in zip(rows["only_module"], rows["only_zeroshot"], strict=True):
        changed = int(only_module + only_zero_shot)
        if not changed or binomtest(int(only_module), changed).pvalue > LEVEL:
            return "cannot tell"
        directions.add("gains" if only_module > only_zero_shot else "loses")
    return directions.pop() if len(directions) == 1 else "cannot tell"
