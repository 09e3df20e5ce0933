"""Counts and costs that must agree with each other, whatever was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import pandas as pd
import torch

from compatbench.audit.findings import Finding, list_findings
from compatbench.audit.method_files import COST, ROWS
from compatbench.audit.tolerance import Tolerance
from compatbench.backbone import load_backbone
from compatbench.data.cards import task_cards
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task

WHERE = ["backbone", "test_set"]


def check_totals(rows: pd.DataFrame) -> list[Finding]:
    """Every row counts all images of its test set."""
    known = set(task_cards.names()).intersection(rows["test_set"])
    sizes = {name: task_cards.read(name).counts["test"] for name in known}
    rows = rows.assign(size=rows["test_set"].map(sizes).astype("Int64"))
    wrong = rows.loc[(rows["total"] != rows["size"]).fillna(False)]
    problem = "is not the number of test images of {test_set}"
    return [
        *list_findings(rows.loc[rows["size"].isna()], "there is no such test set", "test_set"),
        *list_findings(wrong, problem, "total", "{size}", "{total}"),
    ]


def check_flips(rows: pd.DataFrame) -> list[Finding]:
    """In images, and exactly: right on the target − right on the source = positive − negative."""
    fit = ["file", "transfer", "task", "source", "shots", "seed", "test_set"]
    sources = rows.loc[(rows["backbone"] == rows["source"]) & (rows["status"] == "ok")]
    before = sources.set_index(fit)["correct"].rename("before")
    after = rows.loc[rows["negative_flips"].notna()].join(before, on=fit, how="inner")
    after["sum"] = after["before"] + after["positive_flips"] - after["negative_flips"]
    return list_findings(
        after.loc[after["correct"] != after["sum"]],
        "the flips do not lead from the source's correct answers to these",
        "negative_flips",
        "correct = {before} + {positive_flips} - {negative_flips} = {sum}",
        "correct = {correct}",
    )


def check_fits(rows: pd.DataFrame) -> list[Finding]:
    """All rows of one fit say the same of its module."""
    problem = "is not that of the same module in line {first_line}"
    return [
        *_differ_within(rows, "parameters", problem),
        *_differ_within(rows, "module_bytes", problem),
    ]


def check_costs(rows: pd.DataFrame, costs: pd.DataFrame) -> list[Finding]:
    """A cost for every row that was measured, none without its fit, one fit time for each fit.

    A fit that several suites share has more costs than this suite has rows.
    """
    fits = rows[["method", "key"]].drop_duplicates()
    strange = costs.merge(fits, how="left", indicator=True).query("_merge == 'left_only'")
    measured = rows.loc[rows["status"] != "failed"].rename(columns={"line": "row"})
    known = costs[["method", "key", *WHERE]].drop_duplicates()
    lost = measured.merge(known, how="left", indicator=True).query("_merge == 'left_only'")
    lost = lost.assign(line=0, file=lost["file"].str.removesuffix(ROWS) + COST)
    problem = "has no line for line {row} of {method}.csv"
    return [
        *list_findings(strange, "no row is of a cell with this key", "key"),
        *_differ_within(costs, "fit_seconds", "is not that of the same fit in line {first_line}"),
        *list_findings(lost, problem, "key", "{key}", "none"),
    ]


def _differ_within(lines: pd.DataFrame, field: str, problem: str) -> list[Finding]:
    """Lines of a file whose field is not that of the first line with the same key."""
    groups = lines.groupby(["file", "key"])
    first = groups[["line", field]].transform("first").add_prefix("first_")
    lines = lines.join(first)
    wrong = lines.loc[lines[field] != lines[f"first_{field}"]]
    return list_findings(wrong, problem, field, f"{{first_{field}}}", f"{{{field}}}")


def check_zero_shot(
    rows: pd.DataFrame, recomputed: Mapping[tuple[str, str], int], tolerance: Tolerance
) -> list[Finding]:
    """Zero-shot does not depend on the method: every row has the count of most rows.

    Args:
        recomputed: (backbone, test set) -> the count as it was computed again.
    """
    field = "zero_shot_correct"
    rows = rows.loc[rows[field].notna()]
    common = rows.groupby(WHERE)[field].transform(lambda counts: counts.mode()[0])
    again = [recomputed.get(where) for where in rows[WHERE].itertuples(index=False, name=None)]
    rows = rows.assign(common=common, again=pd.array(again, dtype="Int64"))
    allowed = rows["total"].map(tolerance.of)
    wrong = ((rows[field] - rows["again"]).abs() > allowed).fillna(False)
    found = f"{{{field}}}"
    return [
        *list_findings(
            rows.loc[rows[field] != rows["common"]],
            "{backbone} has another zero-shot count on {test_set} elsewhere",
            field,
            "{common}",
            found,
        ),
        *list_findings(
            rows.loc[wrong],
            "zero-shot of {backbone} on {test_set} was computed again",
            field,
            "{again}",
            found,
        ),
    ]


@torch.no_grad()
def count_zero_shot(
    wheres: Iterable[tuple[str, str]], cache: FeatureCache, device: str, precision: str = "fp32"
) -> dict[tuple[str, str], int]:
    """Images that each backbone's own zero-shot classifier has right.

    Args:
        wheres: (backbone, test set) pairs; features that are not cached are computed.

    Raises:
        CompatbenchError: weights or images that cannot be read.
    """
    load = lru_cache(maxsize=1)(load_backbone)
    counts = {}
    for name, test_set in sorted(wheres):
        backbone = load(name, device=device, precision=precision)
        task = load_task(test_set)
        samples = task.split("test")
        logits = cache.features(backbone, task, samples) @ backbone.zero_shot(task.labels).T
        targets = torch.tensor([sample.label for sample in samples], device=backbone.device)
        counts[name, test_set] = int((logits.argmax(-1) == targets).sum())
    return counts
