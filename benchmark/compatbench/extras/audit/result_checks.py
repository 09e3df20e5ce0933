"""The checks of a suite's results that need no training: a function for each, in one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import product
from typing import Any

import pandas as pd
import torch

from compatbench.backbone import load_backbone
from compatbench.data.cards import task_cards, whole_name
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task
from compatbench.engine.cell import PACKAGES
from compatbench.extras.audit.findings import Finding, list_findings
from compatbench.extras.audit.stored_suite import COST, DESCRIPTION, PLACE, ROWS, StoredSuite
from compatbench.extras.audit.tolerance import find_drift
from compatbench.files.hashes import canonical_json
from compatbench.results.rows import FLIPS

WHERE = ["backbone", "test_set"]
STALE = "is not what this checkout computes; the row is stale, or forged"
_VERSION = re.compile(r"\d+(\.\d+)*[A-Za-z0-9.+_-]*")
_LONGEST = 60


def check_settings(suite: StoredSuite) -> Iterator[Finding]:
    """The card and the settings of a method are those that this checkout resolves."""
    for name, expected in suite.expected.items():
        wanted_all, found_all = (
            {
                "method": asdict(replace(one.info, refused="")),
                "config": dict(one.config),
                "differs": dict(one.differs),
            }
            for one in (expected, suite.methods[name])
        )
        for field, *values in _differences("", wanted_all, found_all):
            file, problem = f"{suite.folder / name}{DESCRIPTION}", "is not as resolved here"
            yield Finding(file, problem, 0, field[1:], *map(_show, values))


def _differences(name: str, expected: Any, found: Any) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, expected, found) of the deepest values that differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            if key not in expected or key not in found:
                yield f"{name}.{key}", expected.get(key, "nothing"), found.get(key, "nothing")
            else:
                yield from _differences(f"{name}.{key}", expected[key], found[key])
    elif canonical_json(expected) != canonical_json(found):
        yield name, expected, found


def check_provenance(suite: StoredSuite) -> Iterator[Finding]:
    """Every version that decides numbers is there, and looks like one."""
    for method, name in product(suite.expected, (*PACKAGES, "python", "processor")):
        found = suite.methods[method]
        file, field = f"{suite.folder / method}{DESCRIPTION}", f"provenance.{name}"
        values = found.provenance.get(name, ())
        if len(found.rows) and not values:
            problem = "is missing; every result says what it was made with"
            yield Finding(file, problem, 0, field)
        for value in values:
            if name != "processor" and not _VERSION.fullmatch(value):
                yield Finding(file, f"is not a version: {_show(value)}", 0, field)


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def check_totals(suite: StoredSuite) -> list[Finding]:
    """Every row counts all images of its test set."""
    names, known = {*suite.rows["test_set"]}, {*task_cards.names()}
    sizes = {name: task_cards.read(name).counts["test"] for name in names & known}
    # No card counts the images of a half of a task's classes; the task does, where it is.
    halves = {name for name in names - known if whole_name(name) in known}
    for name in halves - {*suite.missing.test_sets}:
        sizes[name] = len(load_task(name).split("test"))
    rows = suite.rows.loc[~suite.rows["test_set"].isin(halves - {*sizes})]
    rows = rows.assign(size=rows["test_set"].map(sizes).astype("Int64"))
    wrong = rows.loc[(rows["total"] != rows["size"]).fillna(False)]
    problem = "is not the number of test images of {test_set}"
    return [
        *list_findings(rows.loc[rows["size"].isna()], "there is no such test set", "test_set"),
        *list_findings(wrong, problem, "total", "{size}"),
    ]


def check_flips(suite: StoredSuite) -> list[Finding]:
    """In images, and exactly: right on the target − right on the source = positive − negative."""
    fit, rows = ["file", *(name for name in PLACE if name != "backbone")], suite.rows
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


def check_fits(suite: StoredSuite) -> list[Finding]:
    """All rows of one fit say the same of its module, and all its costs the same of its time."""
    return [
        *_differ_within(suite.rows, "parameters", "module"),
        *_differ_within(suite.rows, "module_bytes", "module"),
        *_differ_within(suite.costs, "fit_seconds", "fit"),
    ]


def _differ_within(lines: pd.DataFrame, field: str, what: str) -> list[Finding]:
    """Lines of a file whose field is not that of the first line with the same key."""
    first = lines.groupby(["file", "key"])[["line", field]].transform("first")
    lines = lines.join(first.add_prefix("first_"))
    wrong = lines.loc[lines[field] != lines[f"first_{field}"]]
    problem = f"is not that of the same {what} in line {{first_line}}"
    return list_findings(wrong, problem, field, f"{{first_{field}}}")


def check_costs(suite: StoredSuite) -> list[Finding]:
    """A cost for every row that was measured, and none without its fit.

    A fit that several suites share has more costs than this suite has rows.
    """
    rows, costs = suite.rows, suite.costs
    strange = _without(costs, rows, ["method", "key"])
    measured = rows.loc[rows["status"] != "failed"].rename(columns={"line": "row"})
    lost = _without(measured, costs, ["method", "key", *WHERE])
    lost = lost.assign(line=0, file=lost["file"].str.removesuffix(ROWS) + COST)
    problem = "has no line for line {row} of {method}.csv"
    return [
        *list_findings(strange, "no row is of a cell with this key", "key"),
        *list_findings(lost, problem, "key", "{key}", "none"),
    ]


def _without(lines: pd.DataFrame, others: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """The lines that have no partner among others."""
    partners = others[on].drop_duplicates()
    return lines.merge(partners, how="left", indicator=True).query("_merge == 'left_only'")


def check_planned(suite: StoredSuite) -> list[Finding]:
    """Every row has the key, weights and images of this checkout; every planned one is there."""
    rows, planned = suite.rows, suite.planned
    both = rows.loc[rows["method"].isin(suite.expected)].merge(
        planned, how="outer", on=["method", *PLACE], suffixes=("", "_planned"), indicator=True
    )
    lost = both.query("_merge == 'right_only'")
    lost = lost.assign(file=lost["file_planned"], line=0)
    compared = suite.here(both.query("_merge != 'right_only'"))
    known = compared.query("_merge == 'both'")
    owners = planned.drop_duplicates("key").set_index("key")["cell"]
    stale = known.query("key != key_planned").assign(owner=lambda rows: rows["key"].map(owners))
    moved, keys = stale["owner"].notna(), ("key", "{key_planned}")
    return [
        *_find_strangers(compared.query("_merge == 'left_only'"), planned),
        *list_findings(stale.loc[moved], "is the key of another cell, {owner}", *keys),
        *list_findings(stale.loc[~moved], STALE, *keys),
        *list_findings(known.query("data != data_planned"), STALE, "data", "{data_planned}"),
        *list_findings(
            lost,
            "a measurement of the suite has no row",
            expected="a row of {cell} at {backbone} on {test_set}",
            found="none",
        ),
    ]


def _find_strangers(rows: pd.DataFrame, planned: pd.DataFrame) -> Iterator[Finding]:
    """Rows that the suite does not have: the first field with a value that no measurement has."""
    for row in rows.to_dict("records"):
        own = planned.loc[planned["method"] == row["method"]]
        known = {field: sorted({str(value) for value in own[field]}) for field in PLACE}
        field = next((field for field in PLACE if str(row[field]) not in known[field]), "")
        values = (" or ".join(known[field]), str(row[field])) if field else ()
        problem = "the suite has no such measurement"
        yield Finding(row["file"], problem, int(row["line"]), field, *values)


def check_zero_shot(suite: StoredSuite) -> list[Finding]:
    """Zero-shot does not depend on the method: every row has the count of most rows."""
    field, rows = "zero_shot_correct", suite.rows.loc[suite.rows["status"] == "ok"]
    common = rows.groupby(WHERE)[field].transform(lambda counts: counts.mode()[0])
    unlike = rows.assign(common=common).loc[rows[field] != common]
    problem = "{backbone} has another zero-shot count on {test_set} elsewhere"
    return list_findings(unlike, problem, field, "{common}")


@torch.no_grad()
def recount_zero_shot(suite: StoredSuite, cache: FeatureCache, device: str) -> Iterator[Finding]:
    """Zero-shot counts that the backbones do not give here, up to the tolerance."""
    load, field, drift = lru_cache(maxsize=1)(load_backbone), "zero_shot_correct", []
    planned = set(suite.planned[WHERE].itertuples(index=False, name=None))
    for (name, test_set), same in suite.here(suite.rows.query("status == 'ok'")).groupby(WHERE):  # type: ignore[misc]
        if (name, test_set) not in planned:
            continue
        backbone = load(name, device=device, precision=suite.card.training.precision)
        task = load_task(test_set)
        samples = task.split("test")
        logits = cache.features(backbone, task, samples) @ backbone.zero_shot(task.labels).T
        targets = torch.tensor([sample.label for sample in samples], device=backbone.device)
        again = int((logits.argmax(-1) == targets).sum())
        tolerances = [suite.tolerances[method] for method in same["method"]]
        same = same.assign(images=same[field] - again, key=same["data"])
        limits = [one.of(int(total)) for one, total in zip(tolerances, same["total"], strict=True)]
        problem = f"zero-shot of {name} on {test_set} was computed again"
        wrong = same.loc[same["images"].abs() > limits]
        yield from list_findings(wrong, problem, field, str(again))
        drift.append(same.loc[[one.whole for one in tolerances]].head(1).assign(method=field))
    if drift:
        yield from find_drift(pd.concat(drift), field)


def check_equal_keys(suites: Sequence[StoredSuite]) -> Iterator[Finding]:
    """A key names a module, and ``data`` what it meets: such rows are equal in all suites.

    Where files say that their machines differed, counts are tested as a whole.
    """
    rows = pd.concat([one.rows.assign(claim=one.claims) for one in suites], ignore_index=True)
    rows = rows.loc[rows["status"] != "failed"]
    module, fixed = ["key", "data"], ["status", "total", "parameters", "module_bytes"]
    measured = ["correct", "zero_shot_correct", *FLIPS, "ece", "prompt_diversity"]
    for on, columns in (([*module, "claim"], measured), (module, fixed)):
        first = rows.groupby(on)[["file", "line", "claim", *measured, *fixed]].transform("first")
        both = rows.join(first.add_prefix("first_"))
        for column in columns:
            wrong = both.loc[(both[column] != both[f"first_{column}"]).fillna(False)]
            wrong = wrong.loc[wrong[column].notna()]
            problem = "is not that under the same key in {first_file}:{first_line}"
            yield from list_findings(wrong, problem, column, f"{{first_{column}}}")
    moved = both.loc[both["claim"] != both["first_claim"]].dropna(subset="correct")
    yield from find_drift(moved.assign(images=moved["correct"] - moved["first_correct"]))


# A new check is a function of a suite and a line here.
CHECKS: tuple[Callable[[StoredSuite], Iterable[Finding]], ...] = (
    check_settings,
    check_provenance,
    check_totals,
    check_flips,
    check_fits,
    check_costs,
    check_planned,
    check_zero_shot,
)


def check_suite(suite: StoredSuite) -> list[Finding]:
    """What was wrong with a suite's files, and what every check finds in them."""
    return suite.findings + [finding for check in CHECKS for finding in check(suite)]
