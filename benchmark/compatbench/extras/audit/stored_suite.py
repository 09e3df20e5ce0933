"""The results of one suite, as far as they can be read, beside what this checkout plans for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd

from compatbench.backbone.backbone import PRECISIONS
from compatbench.data.cards import COPIED, SuiteCard, names_elsewhere
from compatbench.data.draws import ShotsFiles
from compatbench.engine.cell import Cell
from compatbench.engine.keys import data_key
from compatbench.engine.missing import Missing, find_missing
from compatbench.engine.plan import find_teachers, plan_cells
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.findings import Finding, compare_file
from compatbench.extras.audit.tolerance import Tolerance, choose_tolerance, deciding
from compatbench.files.hashes import canonical_json
from compatbench.files.project_folders import tasks_folder
from compatbench.method.registry import MethodRegistry, find_transfer, is_transfer
from compatbench.results.collect import describe_method
from compatbench.results.method_results import MethodResults
from compatbench.results.result_files import PAGES, TUNING, file_texts, read_method
from compatbench.results.rows import Cost, Row, to_frame

KINDS = COST, ROWS, DESCRIPTION = ".cost.csv", ".csv", ".json"
# What names a measurement of a method; no two rows of a file share it.
PLACE = Row.place


@dataclass(frozen=True)
class StoredSuite:
    """A suite's folder, and what it should hold."""

    folder: Path
    card: SuiteCard
    methods: dict[str, MethodResults]  # what the files hold
    expected: dict[str, MethodResults]  # the card and settings of the methods known here
    rows: pd.DataFrame  # of all methods, each with its ``method``, ``file`` and ``line``
    costs: pd.DataFrame  # likewise
    cells: list[Cell]  # of the methods known here
    planned: pd.DataFrame  # their measurements, with ``key``, ``data``, ``cell`` and ``file``
    missing: Missing  # what is not on this machine; its rows cannot be compared
    tolerances: dict[str, Tolerance]  # by method
    findings: list[Finding]  # of the reading of the files

    @property
    def claims(self) -> pd.Series:
        """For each row, what its method's file says that numbers were rounded by."""
        made = {name: canonical_json(deciding(m.provenance)) for name, m in self.methods.items()}
        return self.rows["method"].map(made)

    def here(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows whose weights and images are on this machine."""
        away = rows[["source", "backbone"]].isin(list(self.missing.backbones)).any(axis=1)
        away |= rows[["task", "test_set"]].isin(list(self.missing.test_sets)).any(axis=1)
        return rows.loc[~away]


def read_stored_suite(
    folder: Path,
    card: SuiteCard,
    registry: MethodRegistry,
    draws: ShotsFiles,
    tolerance: int | None,
) -> StoredSuite:
    """Reads a suite's folder, and plans the cells of its methods."""
    methods, findings = _read_methods(folder)
    for path in card.plugins:
        registry.add_file(path)
    known = [name for name in methods if name in {*registry.names(), *card.configs}]
    missing = find_missing(card, teachers=find_teachers(card, registry, known))
    cells, expected = [], {}
    away = names_elsewhere(card)
    # Seeds of the suite that nothing was run for are not asked for, on pages as here.
    run = {seed for one in methods.values() for seed in one.rows["seed"].dropna()}
    seeds = [seed for seed in card.seeds if seed in run] or None
    for name, why in {**missing.backbones, **missing.test_sets}.items():
        if name not in away:
            findings.append(Finding(str(tasks_folder()), f"{name} ships with the project: {why}"))
    for name, found in methods.items():
        if name not in known:
            problem = "there is no such method here; give its file with --methods"
            findings.append(Finding(f"{folder / name}{ROWS}", problem, 2, "method"))
            continue
        suite = _as_recorded(card, found)
        recorded = sorted(filter(is_transfer, {*found.rows["transfer"]}))
        method = registry.get(suite.base_method(name)).card
        # All are named here, and one that is named has to take the method.
        asked = [
            label
            for label in suite.transfers
            if label == COPIED or find_transfer(label).serves(method)
        ]
        transfers = list(dict.fromkeys([*asked, *recorded]))
        cells += plan_cells(
            suite, registry, [name], files=draws, missing=missing, transfers=transfers, seeds=seeds
        )
        expected[name] = describe_method(suite, registry.get(suite.base_method(name)), name)
    planned = []
    for cell in cells:
        fit = cell.name, cell.transfer, cell.task, cell.source, cell.shots, cell.seed
        about = str(cell), f"{folder / cell.name}{ROWS}"
        for where in product(cell.backbones, cell.test_sets):
            planned.append((*fit, *where, cell.key, data_key(*where), *about))
    columns = ["method", *PLACE, "key", "data", "cell", "file"]
    return StoredSuite(
        folder,
        card,
        methods,
        expected,
        _frame(folder, ROWS, Row, {name: one.rows for name, one in methods.items()}),
        _frame(folder, COST, Cost, {name: one.costs for name, one in methods.items()}),
        cells,
        pd.DataFrame(planned, columns=columns).astype({"shots": "Int64", "seed": "Int64"}),
        missing,
        {name: choose_tolerance(one.provenance, tolerance) for name, one in methods.items()},
        findings,
    )


def _read_methods(folder: Path) -> tuple[dict[str, MethodResults], list[Finding]]:
    """Reads every file of a folder; one that is broken is named, and the others are read."""
    methods, findings = {}, []
    try:
        paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    except OSError as error:
        return {}, [Finding(str(folder), f"cannot be read: {error.strerror}")]
    for path in paths:
        if path.name in (TUNING, *PAGES):
            continue  # read where settings and pages are compared
        kind = next((kind for kind in KINDS if path.name.endswith(kind)), "")
        name = path.name.removesuffix(kind)
        if kind != ROWS:
            if not kind or folder / f"{name}{ROWS}" not in paths:
                findings.append(Finding(str(path), "no results of a method belong to this file"))
            continue
        try:
            methods[name] = found = read_method(folder, name)
        except CompatbenchError as error:
            # The message names the place itself, if it is one.
            place = re.match(rf"(?s)({re.escape(str(folder))}/[^:/ ]+):(\d+:)? *(.*)", str(error))
            file, line, problem = place.groups() if place else (str(path), None, str(error))
            findings.append(Finding(file, problem, int((line or "0:")[:-1])))
            continue
        for kind, text in file_texts(found).items():
            file = folder / f"{name}{kind}"
            findings += compare_file(file, text, "is not as 'compatbench run' writes it")
    return methods, findings


def _as_recorded(card: SuiteCard, found: MethodResults) -> SuiteCard:
    """The suite at the precision that a method's file says it was run with."""
    _, precision = found.differs.get("precision", ("fp32", card.training.precision))
    if precision not in PRECISIONS:
        return card
    training = card.training.model_copy(update={"precision": precision})
    return card.model_copy(update={"training": training})


def _frame(
    folder: Path, kind: str, model: type[Row | Cost], files: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """The lines of the files of one kind, each with its ``method``, ``file`` and ``line``."""
    parts = [
        lines.assign(method=name, file=f"{folder / name}{kind}", line=range(2, len(lines) + 2))
        for name, lines in {"": to_frame([], model), **files}.items()
    ]
    return pd.concat(parts, ignore_index=True)
