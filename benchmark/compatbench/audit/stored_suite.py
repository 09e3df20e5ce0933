"""The results of one suite beside what this checkout plans for it, and the checks of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from compatbench.audit.counts import (
    check_costs,
    check_fits,
    check_flips,
    check_totals,
    check_zero_shot,
    count_zero_shot,
)
from compatbench.audit.description import check_description
from compatbench.audit.findings import Finding
from compatbench.audit.method_files import cost_frame, read_suite, row_frame
from compatbench.audit.planned_rows import check_planned, plan_rows, rows_here
from compatbench.audit.tolerance import Tolerance, choose_tolerance
from compatbench.data.cards import SuiteCard
from compatbench.data.draws import ShotsFiles
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.cell import Cell
from compatbench.engine.missing import Missing, find_missing
from compatbench.engine.plan import plan_cells
from compatbench.method.registry import MethodRegistry
from compatbench.results.collect import describe_method
from compatbench.results.store import MethodResults, join_provenance
from compatbench.transfer import TRANSFERS


@dataclass
class StoredSuite:
    """A suite's folder, as far as it could be read, and what it should hold.

    Attributes:
        rows, costs: of all methods, each with its ``file`` and ``line``.
        cells: of the methods that are known here.
        planned: the measurements of these cells.
        findings: what was found so far.
    """

    card: SuiteCard
    methods: dict[str, MethodResults]
    missing: Missing
    tolerance: Tolerance
    rows: pd.DataFrame
    costs: pd.DataFrame
    cells: list[Cell]
    planned: pd.DataFrame
    findings: list[Finding]


def read_stored_suite(
    folder: Path,
    card: SuiteCard,
    registry: MethodRegistry,
    draws: ShotsFiles,
    tolerance: int | None,
) -> StoredSuite:
    """Reads a suite's folder, and plans the cells of its methods.

    Args:
        draws: draws that were given and not made.
        tolerance: images that a count may differ by, in place of the usual.
    """
    methods, findings = read_suite(folder)
    for path in card.plugins:
        registry.add_file(path)
    missing = find_missing(card)
    cells, planned = [], [plan_rows("", [])]
    for name, found in methods.items():
        file = f"{folder / name}.csv"
        if name not in {*registry.names(), *card.configs}:
            problem = "there is no such method here; give its file with --methods"
            findings.append(Finding(file, problem, 2, "method"))
            continue
        suite = _as_recorded(card, found)
        transfers = _transfers(suite, found)
        own = plan_cells(suite, registry, [name], files=draws, missing=missing, transfers=transfers)
        cells += own
        planned.append(plan_rows(file, own))
        method = registry.get(suite.base_method(name))
        described = describe_method(suite, method, name)
        findings += check_description(f"{folder / name}.json", described, found)
    made_with = join_provenance(found.provenance for found in methods.values())
    return StoredSuite(
        card,
        methods,
        missing,
        choose_tolerance(made_with, tolerance),
        row_frame(folder, methods.values()),
        cost_frame(folder, methods.values()),
        cells,
        pd.concat(planned),
        findings,
    )


def _transfers(suite: SuiteCard, found: MethodResults) -> list[str]:
    """The transfers that a method's file has to hold: those of the suite, and those in it."""
    recorded = sorted({row.transfer for row in found.rows} & set(TRANSFERS))
    return list(dict.fromkeys([*suite.transfers, *recorded]))


def _as_recorded(card: SuiteCard, found: MethodResults) -> SuiteCard:
    """The suite at the precision that a method's file says it was run with."""
    _, precision = found.differs.get("precision", ("fp32", card.training.precision))
    if precision not in ("fp32", "bf16"):
        return card
    training = card.training.model_copy(update={"precision": precision})
    return card.model_copy(update={"training": training})


def check_suite(
    suite: StoredSuite, zero_shot: bool, cache: FeatureCache, device: str
) -> list[Finding]:
    """Rows and costs against each other, against the plan and, if asked, against zero-shot.

    Raises:
        CompatbenchError: weights or images that cannot be read.
    """
    rows, counts = suite.rows, {}
    known = rows.loc[rows["method"].isin({cell.name for cell in suite.cells})]
    if zero_shot:
        here = rows.loc[(rows["status"] == "ok") & rows_here(rows, suite.missing)]
        pairs = {*zip(here["backbone"], here["test_set"], strict=True)}
        planned = {*zip(suite.planned["backbone"], suite.planned["test_set"], strict=True)}
        precision = suite.card.training.precision
        counts = count_zero_shot(pairs & planned, cache, device, precision)
    return [
        *check_totals(rows),
        *check_flips(rows),
        *check_fits(rows),
        *check_costs(rows, suite.costs),
        *check_planned(known, suite.planned, suite.missing),
        *check_zero_shot(rows, counts, suite.tolerance),
    ]
