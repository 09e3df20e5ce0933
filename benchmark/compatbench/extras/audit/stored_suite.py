"""The results of one suite, as far as they can be read, beside what this checkout plans for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from compatbench.data.cards import SuiteCard, names_elsewhere, suite_tasks
from compatbench.data.declared_transfers import declared_needs
from compatbench.engine.cell import PACKAGES, Cell, CellRecord, provenance, shorten_key
from compatbench.engine.execute.planning import Planner
from compatbench.engine.missing import Missing
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.findings import Finding
from compatbench.extras.audit.planned_suite import MeasuredMethod, PlannedSuite, plan_suite
from compatbench.files.kinds import kind_of
from compatbench.results.collect import to_stored
from compatbench.results.reports import REPORTED, RowReports, reports_text
from compatbench.results.result_files import (
    COSTS,
    TUNING,
    ResultFiles,
    costs_text,
    file_texts,
)
from compatbench.results.rows import Cost, Row, to_frame
from compatbench.results.stored_method import StoredMethod
from compatbench.results.tuning_records import is_tuned, read_record, show_record

ROWS = ".csv"
DESCRIPTION = ".json"
# What may change a value: versions of packages, and the processor.
MACHINE = (*(name for name in PACKAGES if name != "compatbench"), "processor")
NOT_WRITTEN = "is not as 'compatbench run' writes it"
Files = dict[Path, tuple[bytes, str]]  # what each must hold, and what is wrong if it does not


@dataclass(frozen=True)
class StoredSuite:
    """A suite's folder, and what it should hold."""

    folder: Path
    card: SuiteCard
    plan: PlannedSuite
    methods: dict[str, StoredMethod]  # what the files hold
    expected: dict[str, StoredMethod]  # the card and settings of the methods known here
    rows: pd.DataFrame  # of all methods, each with its ``method``, ``file`` and ``line``
    files: Files  # all that the folder holds besides pages
    findings: list[Finding]  # of the reading of the files
    broken: bool  # a file cannot be read, so nothing that follows from it is checked
    reported: bool = False  # True if people reported the rows, as of real models

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of the methods known here; none if something cannot be read."""
        return () if self.broken else self.plan.cells

    @property
    def missing(self) -> Missing:
        """What is not on this machine. Its rows cannot be compared."""
        return self.plan.missing

    @property
    def planned(self) -> pd.DataFrame:
        """The measurements of the cells, with their ``key``, ``data``, ``cell`` and ``file``."""
        lines = []
        for cell in self.cells:
            fit = cell.name, cell.transfer, cell.task, cell.source, cell.shots, cell.seed
            about = str(cell), f"{self.folder / cell.name}{ROWS}"
            for backbone, test_set, data in cell.places:
                hashes = shorten_key(cell.key), shorten_key(data)
                lines.append((*fit, backbone, test_set, *hashes, *about))
        columns = ["method", *Row.place, "key", "data", "cell", "file"]
        return pd.DataFrame(lines, columns=columns).astype({"shots": "Int64", "seed": "Int64"})

    def here(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows whose images and weights are on this machine."""
        away = rows[["task", "test_set"]].isin(list(self.missing.test_sets)).any(axis=1)
        away |= rows[["source", "backbone"]].isin(list(self.missing.backbones)).any(axis=1)
        if not self.missing.test_sets.keys().isdisjoint(suite_tasks(self.card)):
            away |= rows["transfer"].map(_needs_modules).astype(bool)
        return rows.loc[~away]

    def is_of_this_machine(self, method: str) -> bool:
        """Return True if a method's file names these versions and this processor, and no other."""
        here = provenance()
        made = self.methods[method].provenance
        return all(tuple(made.get(name, ())) == (here[name],) for name in MACHINE)

    def names_machine_of(self, method: str, record: CellRecord) -> bool:
        """Return True if a method's file names the versions and the processor of a record."""
        made = self.methods[method].provenance
        return all(record.provenance.get(name) in made.get(name, ()) for name in MACHINE)


def _needs_modules(transfer: str) -> bool:
    """Return True if a transfer needs the modules of all tasks of a suite."""
    needs = declared_needs(transfer)
    return needs is not None and "modules" in needs.access


def read_stored_suite(results: ResultFiles, card: SuiteCard, planner: Planner) -> StoredSuite:
    """Read a suite's folder, and let the planner plan the cells of its methods."""
    folder = results.folder(card.name)
    files = Files()
    findings: list[Finding] = []
    methods = _read_methods(results, card.name, files, findings)
    reports = _read_reports(results, card, files, findings)
    no_rows = to_frame([], Row).assign(file="", line=0)
    if findings:
        return StoredSuite(
            folder=folder,
            card=card,
            plan=PlannedSuite(),
            methods=methods,
            expected={},
            rows=no_rows,
            files=files,
            findings=findings,
            broken=True,
        )
    tables = []
    for name, stored in methods.items():
        file = f"{folder / name}{ROWS}"
        lines = range(2, len(stored.rows) + 2)  # the first is the header
        tables.append(stored.rows.assign(method=name, file=file, line=lines))
    rows = pd.concat(tables or [no_rows], ignore_index=True)
    # A seed that no method has is reported once, not for each of its cells.
    run = {*rows["seed"].dropna()}
    seeds = [seed for seed in card.seeds if seed in run] or card.seeds
    measured = {name: _describe_run(stored) for name, stored in methods.items()}
    plan = plan_suite(planner, card, measured, seeds)
    for name in methods:
        if name not in plan.methods:
            problem = "there is no such method here; give its file with --methods"
            findings.append(Finding(f"{folder / name}{ROWS}", problem, 2, "method"))
    expected = {name: to_stored(method) for name, method in plan.methods.items()}
    tunings = _read_tunings(folder, card, expected, files)
    findings += tunings.findings
    return StoredSuite(
        folder=folder,
        card=card,
        plan=plan,
        methods=methods,
        expected=expected,
        rows=rows,
        files=files,
        findings=findings,
        broken=tunings.broken,
        reported=reports is not None,
    )


def _read_methods(
    results: ResultFiles, suite: str, files: Files, findings: list[Finding]
) -> dict[str, StoredMethod]:
    """Read the methods of a suite; add what their files should hold, and what is broken.

    A broken file is named, and the others are read.
    """
    folder = results.folder(suite)
    methods: dict[str, StoredMethod] = {}
    tables = sorted(path.name for path in folder.glob(f"[!.]*{ROWS}"))
    names = [table.removesuffix(ROWS) for table in tables if table != COSTS]
    costs = _read_costs(results, suite, names, files, findings)
    for name in names:
        path = folder / f"{name}{ROWS}"
        try:
            methods[name] = results.read_method(suite, name, costs)
        except CompatbenchError as error:
            findings.append(_locate(path, error))
            # Nothing else is said of them: what they should hold is not known.
            for file in (path, folder / f"{name}{DESCRIPTION}"):
                if kind_of(file) == "file":
                    files[file] = file.read_bytes(), ""
            continue
        description, rows = file_texts(methods[name])
        files[folder / f"{name}{DESCRIPTION}"] = description.encode(), NOT_WRITTEN
        files[path] = rows.encode(), NOT_WRITTEN
    return methods


def _read_reports(
    results: ResultFiles, card: SuiteCard, files: Files, findings: list[Finding]
) -> RowReports | None:
    """Read who reported the rows of a suite; add what the file should hold, or what is broken.

    Rows that any clone can make are not taken as reported.
    """
    path = results.folder(card.name) / REPORTED
    try:
        reports = results.read_reports(card.name)
    except CompatbenchError as error:
        findings.append(_locate(path, error))
        files[path] = path.read_bytes(), ""
        return None
    if reports is not None and not names_elsewhere(card):
        problem = "any clone can make the rows of this suite, so none are reported; delete the file"
        findings.append(_locate(path, CompatbenchError(problem)))
        files[path] = path.read_bytes(), ""
        return None
    if reports is not None:
        files[path] = reports_text(reports).encode(), "is not as 'maintain submit' writes it"
    return reports


def _read_costs(
    results: ResultFiles,
    suite: str,
    names: Sequence[str],
    files: Files,
    findings: list[Finding],
) -> pd.DataFrame:
    """Read the costs of a suite; add what the file should hold, and what is broken in it."""
    path = results.folder(suite) / COSTS
    try:
        costs = results.read_costs(suite)
    except CompatbenchError as error:
        findings.append(_locate(path, error))
        if kind_of(path) == "file":
            files[path] = path.read_bytes(), ""
        return to_frame([], Cost)
    if names or len(costs):
        known = costs.loc[costs["method"].isin(names)]
        files[path] = costs_text(known).encode(), NOT_WRITTEN
    return costs


def _describe_run(results: StoredMethod) -> MeasuredMethod:
    """Return how a method was run, by its files."""
    _, precision = results.differs.get("precision", ("fp32", None))
    return MeasuredMethod(precision, tuple(sorted({*results.rows["transfer"]})))


@dataclass
class _Tunings:
    """The outcome of reading the records of how settings were chosen."""

    findings: list[Finding] = field(default_factory=list)
    broken: bool = False  # one of them cannot be read


def _read_tunings(
    folder: Path, card: SuiteCard, expected: Mapping[str, StoredMethod], files: Files
) -> _Tunings:
    """Read the records of how settings were chosen; add what each should hold."""
    tunings = _Tunings()
    for name, method in expected.items():
        path = folder / TUNING / f"{name}{DESCRIPTION}"
        if kind_of(path) != "file":
            continue
        try:
            tuning = read_record(path)
        except CompatbenchError as error:
            files[path] = path.read_bytes(), ""
            tunings.findings.append(_locate(path, error))
            tunings.broken = True
            continue
        command = f"compatbench maintain tune {name}"
        files[path] = show_record(tuning).encode(), f"is not as '{command}' writes it"
        is_named = (tuning.suite, tuning.method) == (card.name, name)
        if not is_named or not is_tuned(folder.parents[1], card, name, method.config):
            problem = f"is of other settings than the suite's; run '{command}'"
            tunings.findings.append(Finding(str(path), problem))
    return tunings


def _locate(path: Path, error: CompatbenchError) -> Finding:
    """Return what is wrong with a file; the message names the place itself, if it is one."""
    folder = re.escape(str(path.parent))
    place = re.match(rf"(?s)({folder}/[^:/ ]+):?(\d+:)? *(.*)", str(error))
    if place is None:
        return Finding(str(path), str(error))
    file, line, problem = place.groups()
    return Finding(file, problem, int((line or "0:").removesuffix(":")))
