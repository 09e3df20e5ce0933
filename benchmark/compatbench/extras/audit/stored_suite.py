"""The results of one suite, as far as they can be read, beside what this checkout plans for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from compatbench.backbone.backbone import PRECISIONS
from compatbench.data.cards import COPIED, SuiteCard, names_elsewhere
from compatbench.engine.cell import PACKAGES, Cell, provenance, shorten_key
from compatbench.engine.described_method import describe_method
from compatbench.engine.missing import Missing, find_missing
from compatbench.engine.plan import find_teachers, plan_cells
from compatbench.engine.request import make_request
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.findings import Finding
from compatbench.files.kinds import kind_of
from compatbench.method import Method
from compatbench.method.registry import MethodRegistry, find_transfer, known_transfer
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
NOT_WRITTEN = "is not as 'compatbench run' writes it"
Files = dict[Path, tuple[bytes, str]]  # what each must hold, and what is wrong if it does not


@dataclass(frozen=True)
class StoredSuite:
    """A suite's folder, and what it should hold."""

    folder: Path
    card: SuiteCard
    registry: MethodRegistry
    methods: dict[str, StoredMethod]  # what the files hold
    expected: dict[str, StoredMethod]  # the card and settings of the methods known here
    rows: pd.DataFrame  # of all methods, each with its ``method``, ``file`` and ``line``
    cells: list[Cell]  # of the methods known here
    missing: Missing  # what is not on this machine; its rows cannot be compared
    files: Files  # all that the folder holds besides pages
    findings: list[Finding]  # of the reading of the files
    broken: bool  # a file cannot be read, so nothing that follows from it is checked
    reported: bool = False  # True if people reported the rows, as of real models

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
        return rows.loc[~away]

    def is_of_this_machine(self, method: str) -> bool:
        """Return True if a method's file names these versions and this processor, and no other."""
        here = provenance()
        made = self.methods[method].provenance
        for name in (*PACKAGES, "processor"):
            if name != "compatbench" and tuple(made.get(name, ())) != (here[name],):
                return False
        return True


def read_stored_suite(
    results: ResultFiles, card: SuiteCard, registry: MethodRegistry
) -> StoredSuite:
    """Read a suite's folder, and plan the cells of its methods."""
    folder = results.folder(card.name)
    files = Files()
    findings: list[Finding] = []
    methods = _read_methods(results, card.name, files, findings)
    reports = _read_reports(results, card, files, findings)
    for path in card.plugins:
        registry.add_file(path)
    no_rows = to_frame([], Row).assign(file="", line=0)
    if findings:
        return StoredSuite(
            folder=folder,
            card=card,
            registry=registry,
            methods=methods,
            expected={},
            rows=no_rows,
            cells=[],
            missing=Missing(),
            files=files,
            findings=findings,
            broken=True,
        )
    tables = []
    known = []
    for name, stored in methods.items():
        file = f"{folder / name}{ROWS}"
        lines = range(2, len(stored.rows) + 2)  # the first is the header
        tables.append(stored.rows.assign(method=name, file=file, line=lines))
        if name in registry.names() or name in card.configs:
            known.append(name)
        else:
            problem = "there is no such method here; give its file with --methods"
            findings.append(Finding(file, problem, 2, "method"))
    rows = pd.concat(tables or [no_rows], ignore_index=True)
    expected = {name: _describe(card, methods[name], registry, name) for name in known}
    missing = find_missing(card, teachers=find_teachers(card, known))
    # A seed that no method has is reported once, not for each of its cells.
    run = {*rows["seed"].dropna()}
    seeds = [seed for seed in card.seeds if seed in run] or card.seeds
    cells = _plan(card, {name: methods[name] for name in known}, registry, seeds, missing)
    tunings = _read_tunings(folder, card, expected, files)
    findings += tunings.findings
    return StoredSuite(
        folder=folder,
        card=card,
        registry=registry,
        methods=methods,
        expected=expected,
        rows=rows,
        cells=[] if tunings.broken else cells,
        missing=missing,
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


def _describe(
    card: SuiteCard, results: StoredMethod, registry: MethodRegistry, name: str
) -> StoredMethod:
    """Return the card and settings of a method as they are resolved here."""
    method = registry.get(card.base_method(name))
    return to_stored(describe_method(_as_recorded(card, results), method, name))


def _plan(
    card: SuiteCard,
    methods: Mapping[str, StoredMethod],
    registry: MethodRegistry,
    seeds: Sequence[int],
    missing: Missing,
) -> list[Cell]:
    """Plan the cells of methods, at the precision and with the transfers of their files."""
    # One plan serves all methods with the same precision and transfers.
    suites: dict[tuple[str, tuple[str, ...]], SuiteCard] = {}
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, results in methods.items():
        suite = _as_recorded(card, results)
        method = registry.get(card.base_method(name))
        transfers = _list_transfers(suite, method, results)
        group = suite.training.precision, transfers
        suites.setdefault(group, suite)
        groups.setdefault(group, []).append(name)
    cells: list[Cell] = []
    for group, names in groups.items():
        _, transfers = group
        request = make_request(suites[group], names, transfers=transfers, seeds=seeds)
        cells += plan_cells(request, missing)
    return sorted(cells, key=lambda cell: cell.name)


def _list_transfers(
    suite: SuiteCard, method: type[Method], results: StoredMethod
) -> tuple[str, ...]:
    """Return the transfers of the suite that take a method, and those of its rows."""
    transfers = []
    # A request that names a transfer must name one that takes the method.
    for name in suite.transfers:
        if name == COPIED or find_transfer(name).serves(method.card):
            transfers.append(name)
    transfers += sorted(filter(known_transfer, {*results.rows["transfer"]}))
    return tuple(dict.fromkeys(transfers))


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


def _as_recorded(card: SuiteCard, results: StoredMethod) -> SuiteCard:
    """Return the suite at the precision that a method's file says it was run with."""
    _, precision = results.differs.get("precision", ("fp32", card.training.precision))
    if precision not in PRECISIONS:
        return card
    training = card.training.model_copy(update={"precision": precision})
    return card.model_copy(update={"training": training})
