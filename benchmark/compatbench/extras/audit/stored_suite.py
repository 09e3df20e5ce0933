"""The results of one suite, as far as they can be read, beside what this checkout plans for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from compatbench.backbone.backbone import PRECISIONS
from compatbench.data.cards import COPIED, SuiteCard
from compatbench.engine.cell import PACKAGES, Cell, provenance, shorten_key
from compatbench.engine.missing import Missing, find_missing
from compatbench.engine.plan import find_teachers, plan_cells
from compatbench.engine.request import make_request
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.findings import Finding
from compatbench.files.kinds import kind_of
from compatbench.method.refusals import find_refusal
from compatbench.method.registry import MethodRegistry, find_transfer, known_transfer
from compatbench.results.collect import describe_method
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

ROWS, DESCRIPTION = ".csv", ".json"
NOT_WRITTEN = "is not as 'compatbench run' writes it"
Files = dict[Path, tuple[bytes, str]]  # what each must hold, and what is wrong if it does not


@dataclass(frozen=True)
class StoredSuite:
    """A suite's folder, and what it should hold."""

    folder: Path
    card: SuiteCard
    methods: dict[str, StoredMethod]  # what the files hold
    expected: dict[str, StoredMethod]  # the card and settings of the methods known here
    rows: pd.DataFrame  # of all methods, each with its ``method``, ``file`` and ``line``
    cells: list[Cell]  # of the methods known here
    missing: Missing  # what is not on this machine; its rows cannot be compared
    files: Files  # all that the folder holds besides pages
    findings: list[Finding]  # of the reading of the files

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
        """Whether a method's file says that it was made by these versions and this processor."""
        here, made = provenance(), self.methods[method].provenance
        names = (*(name for name in PACKAGES if name != "compatbench"), "processor")
        return all(tuple(made.get(name, ())) == (here[name],) for name in names)


def read_stored_suite(
    results: ResultFiles, card: SuiteCard, registry: MethodRegistry
) -> StoredSuite:
    """Reads a suite's folder, and plans the cells of its methods."""
    folder = results.folder(card.name)
    methods, files, findings = _read_methods(results, card.name)
    for path in card.plugins:
        registry.add_file(path)
    known = [name for name in methods if name in {*registry.names(), *card.configs}]
    missing = find_missing(card, teachers=find_teachers(card, registry, known))
    cells, expected, tables = list[Cell](), {}, [to_frame([], Row).assign(file="", line=0)]
    # By precision and transfers: a plan serves all methods that have them.
    plans = dict[tuple[str, tuple[str, ...]], tuple[SuiteCard, list[str]]]()
    # Seeds of the suite that nothing was run for are not asked for, on pages as here.
    run = {seed for stored in methods.values() for seed in stored.rows["seed"].dropna()}
    seeds = [seed for seed in card.seeds if seed in run] or card.seeds
    for name, stored in methods.items():
        file, lines = f"{folder / name}{ROWS}", range(2, len(stored.rows) + 2)
        tables.append(stored.rows.assign(method=name, file=file, line=lines))
        if name not in known:
            problem = "there is no such method here; give its file with --methods"
            findings.append(Finding(file, problem, 2, "method"))
            continue
        suite, method = _as_recorded(card, stored), registry.get(card.base_method(name))
        recorded = sorted(filter(known_transfer, {*stored.rows["transfer"]}))
        # All are named here, and one that is named has to take the method.
        asked = [
            label
            for label in suite.transfers
            if label == COPIED or find_transfer(label).serves(method.card)
        ]
        precision, transfers = suite.training.precision, tuple(dict.fromkeys([*asked, *recorded]))
        _, alike = plans.setdefault((precision, transfers), (suite, []))
        alike.append(name)
        described = describe_method(suite, method, name)
        # A check here refused it, or nobody did.
        refused = find_refusal(registry.identify(method.card.name)[0])
        expected[name] = replace(described, info=replace(described.info, refused=refused))
    for (_, transfers), (suite, alike) in plans.items():
        request = make_request(suite, alike, transfers=transfers, seeds=seeds, registry=registry)
        cells += plan_cells(request, missing)
    cells.sort(key=lambda cell: cell.name)
    rows = pd.concat(tables[1:] or tables, ignore_index=True)
    files |= _read_tunings(folder, card, expected, findings)
    return StoredSuite(folder, card, methods, expected, rows, cells, missing, files, findings)


def _read_methods(
    results: ResultFiles, suite: str
) -> tuple[dict[str, StoredMethod], Files, list[Finding]]:
    """Read the methods of a folder, and their files; name what is broken, and read the others."""
    folder = results.folder(suite)
    methods: dict[str, StoredMethod] = {}
    files: Files = {}
    findings: list[Finding] = []
    tables = sorted(path.name for path in folder.glob(f"[!.]*{ROWS}"))
    names = [table.removesuffix(ROWS) for table in tables if table != COSTS]
    costs = _read_costs(results, suite, names, files, findings)
    for name in names:
        path = folder / f"{name}{ROWS}"
        try:
            methods[name] = results.read_method(suite, name, costs)
        except CompatbenchError as error:
            findings.append(_locate(path, error))
            # They are named once; what they should hold is not known.
            kept = (folder / f"{name}{kind}" for kind in (ROWS, DESCRIPTION))
            files |= {file: (file.read_bytes(), "") for file in kept if kind_of(file) == "file"}
            continue
        description, rows = file_texts(methods[name])
        files[folder / f"{name}{DESCRIPTION}"] = description.encode(), NOT_WRITTEN
        files[folder / f"{name}{ROWS}"] = rows.encode(), NOT_WRITTEN
    return methods, files, findings


def _read_costs(
    results: ResultFiles,
    suite: str,
    names: Sequence[str],
    files: Files,
    findings: list[Finding],
) -> pd.DataFrame:
    """Read the costs of a folder; add what the file should hold, and what is broken in it."""
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


def _read_tunings(
    folder: Path, card: SuiteCard, expected: Mapping[str, StoredMethod], findings: list[Finding]
) -> Files:
    """The records of how settings were chosen, of methods that have those settings."""
    files = Files()
    for name, method in expected.items():
        path = folder / TUNING / f"{name}{DESCRIPTION}"
        if kind_of(path) != "file":
            continue
        try:
            tuning = read_record(path)
        except CompatbenchError as error:
            files[path] = path.read_bytes(), ""
            findings.append(_locate(path, error))
            continue
        command = f"compatbench maintain tune {name}"
        files[path] = show_record(tuning).encode(), f"is not as '{command}' writes it"
        is_named = (tuning.suite, tuning.method) == (card.name, name)
        if not is_named or not is_tuned(folder.parents[1], card, name, method.config):
            problem = f"is of other settings than the suite's; run '{command}'"
            findings.append(Finding(str(path), problem))
    return files


def _locate(path: Path, error: CompatbenchError) -> Finding:
    """What is wrong with a file; the message names the place itself, if it is one."""
    folder = re.escape(str(path.parent))
    place = re.match(rf"(?s)({folder}/[^:/ ]+):?(\d+:)? *(.*)", str(error))
    file, line, problem = place.groups() if place else (str(path), None, str(error))
    return Finding(file, problem, int((line or "0:")[:-1]))


def _as_recorded(card: SuiteCard, results: StoredMethod) -> SuiteCard:
    """The suite at the precision that a method's file says it was run with."""
    _, precision = results.differs.get("precision", ("fp32", card.training.precision))
    if precision not in PRECISIONS:
        return card
    training = card.training.model_copy(update={"precision": precision})
    return card.model_copy(update={"training": training})
