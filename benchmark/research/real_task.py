"""Make the section of docs/findings.md on handwritten digits, where zero-shot only guesses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from method_kinds import group_methods
from scipy.stats import binomtest

import compatbench as cb
from compatbench.data.cards import COPIED
from compatbench.messages import conjugate
from compatbench.results.estimate import estimate
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import percent, signed, with_bounds
from compatbench.tables.table import plain_table

REPOSITORY = Path(__file__).parents[2]
SUITE = "mini-real"
DRAWINGS = "mini"
SOURCE = "mini-clip"
TARGETS = {
    "mini-eva-clip": "keeps the old embedding space",
    "mini-eva-clip-anew": "has a new embedding space",
}
LEVEL = 0.05


def make_sections() -> dict[str, str]:
    """Return the table of verdicts by kind of method, and zero-shot's accuracies."""
    frame = cb.results(SUITE, REPOSITORY).frame
    copied = frame[frame["transfer"] == COPIED]
    accuracies = []
    for backbone in (SOURCE, *TARGETS):
        rows = copied[(copied["backbone"] == backbone) & (copied["method"] == "zeroshot")]
        accuracies.append(f"{percent(rows['accuracy'].mean())} % (`{backbone}`)")
    header = ["Kind of method", "Methods"]
    for title in TARGETS.values():
        header += [f"{title}: gain, lose", "median gain"]
    rows = []
    totals: dict[str, Counter[str]] = {target: Counter() for target in TARGETS}
    attached = list_attached(copied)
    for kind, methods in group_methods(attached["method"].unique()).items():
        row = [kind, str(len(methods))]
        for target in TARGETS:
            of_kind = attached[(attached["backbone"] == target) & attached["method"].isin(methods)]
            verdicts = [judge(rows) for _, rows in of_kind.groupby("method")]
            gains = of_kind.groupby("method")["gain"].mean()
            row.append(f"{verdicts.count('gains')}, {verdicts.count('loses')}")
            totals[target].update(verdicts)
            row.append(signed(gains.median()))
        rows.append(row)
    text = f"Zero-shot's accuracies are {', '.join(accuracies)}; guessing has 10 %.\n\n"
    table = render_table(plain_table(header, rows, left=(0,)))
    return {"digits-answer": describe_answer(totals), "digits": text + table}


def list_attached(copied: pd.DataFrame) -> pd.DataFrame:
    """Return the rows on the targets of methods that can be attached to all of them.

    Methods that read words are left out: their modules are not copied alone.
    """
    rows = copied[copied["backbone"].isin(list(TARGETS)) & (copied["status"] == "ok")]
    rows = rows[rows["ranked_with"] == COPIED]
    targets = rows.groupby("method")["backbone"].transform("nunique")
    return rows[targets == len(TARGETS)]


def describe_answer(totals: Mapping[str, Counter[str]]) -> str:
    """Return how many methods gain and lose on each target, and what CoOp does on drawings."""
    parts = []
    for target, title in TARGETS.items():
        verdicts = totals[target]
        gains = verdicts["gains"]
        loses = verdicts["loses"]
        parts.append(
            f"{gains} of {verdicts.total()} copied modules {conjugate(gains, 'gain')} and "
            f"{loses} {conjugate(loses, 'lose')} on `{target}`, which {title}"
        )
    return f"{'; '.join(parts)}. {compare_with_drawings()}"


def compare_with_drawings(method: str = "coop", title: str = "CoOp") -> str:
    """Return the mean gain of a module on the digits and on the drawings of suite ``mini``."""
    shown = []
    for target in TARGETS:
        gains = []
        for suite in (SUITE, DRAWINGS):
            results = cb.results(suite, REPOSITORY)
            frame = results.frame
            rows = frame[
                (frame["transfer"] == "copied")
                & (frame["method"] == method)
                & (frame["backbone"] == target)
                & (frame["task"] == frame["test_set"])
                & frame["task"].isin(results.expected.tasks)
            ]
            gains.append(estimate(rows.groupby("task")["gain"].mean()))
        shown.append(f"{with_bounds(gains[0])} and {with_bounds(gains[1])} on `{target}`")
    return (
        f"How much the images matter shows in the gain of {title}'s module on digits and on "
        f"drawings: {'; '.join(shown)} (points; intervals over the tasks of suite `{DRAWINGS}`)."
    )


def judge(rows: pd.DataFrame) -> str:
    """Return ``gains`` or ``loses`` if McNemar's exact test says so for every seed."""
    directions = set()
    for only_module, only_zero_shot in zip(rows["only_module"], rows["only_zeroshot"], strict=True):
        changed = int(only_module + only_zero_shot)
        if not changed or binomtest(int(only_module), changed).pvalue > LEVEL:
            return "cannot tell"
        directions.add("gains" if only_module > only_zero_shot else "loses")
    return directions.pop() if len(directions) == 1 else "cannot tell"
