"""The audit of a results folder: what it looks at, in which order, and what it reports."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import pandas as pd

from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import SuiteCard, backbone_cards, suite_cards
from compatbench.engine.cell import Cell
from compatbench.engine.compute import Compute
from compatbench.engine.execute.dispatcher import Job
from compatbench.engine.execute.events import Event
from compatbench.engine.execute.planning import Planner
from compatbench.engine.execute.run_plan import run_here
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.completeness import check_completeness
from compatbench.extras.audit.files import check_files
from compatbench.extras.audit.findings import Finding
from compatbench.extras.audit.planned_suite import add_files
from compatbench.extras.audit.rerun import Rerun
from compatbench.extras.audit.stored_suite import StoredSuite, read_stored_suite
from compatbench.extras.audit.suite_checks import (
    check_keys,
    check_origins,
    check_settings,
    score_again,
)
from compatbench.files.kinds import kind_of
from compatbench.files.scratch import scratch_folder
from compatbench.messages import count
from compatbench.results.result_files import NO_SUITES, RESULTS, ResultFiles

CELLS = 10  # that are run again unless another number is given


@dataclass
class Audit:
    """The outcome of an audit: what it looked at, and its findings."""

    suites: list[str]
    seed: int  # of the draw of cells
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was not looked at, or was allowed
    methods: int = 0  # files that were read
    rows: int = 0
    scored: int = 0  # rows whose predictions were scored again
    # By suite, the rows that are reported only.
    unchecked: dict[str, int] = field(default_factory=dict)
    cells: list[str] = field(default_factory=list)  # that were run again
    # By suite, the number of cells that were not run again.
    not_run: dict[str, int] = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each finding, with its file, line, field, problem and both values."""
        return pd.DataFrame(self.findings, columns=[column.name for column in fields(Finding)])

    def describe_remainder(self) -> str:
        """Return in one line what was not run again, so that nobody takes it for proven."""
        parts = []
        left = sum(self.not_run.values())
        if left:
            total = left + len(self.cells)
            suites = _list_numbers(self.not_run)
            parts.append(f"{left:,} of {total:,} cells ({suites}); --cells runs more")
        away = sum(self.unchecked.values())
        if away:
            suites = _list_numbers(self.unchecked)
            parts.append(f"{away:,} rows whose weights or images are not here ({suites})")
        return f"not run again: {'; '.join(parts) or 'nothing'}"


def _list_numbers(numbers: dict[str, int]) -> str:
    """Return the numbers that are not 0 with their names."""
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items() if number)


def audit_results(
    out: Path | str = ".",
    suites: Sequence[str] | None = None,
    *,
    cells: int = CELLS,
    seed: int = 1,
    rerun: Sequence[str] | None = None,
    cold: bool = False,
    methods: str | None = None,
    unverified: Collection[str] = (),
    device: str = "auto",
    progress: Callable[[str], object] = lambda _: None,
) -> Audit:
    """Find out whether results are what this installation makes.

    Methods are imported by another process, which computes keys and runs cells. This process
    imports none, so that no method can change how rows are scored and compared.

    Every file is read. Keys and data of every row are computed again, and settings and pages are
    compared with those that the code gives. A method, seed or cell that a suite asks for must be
    there. Predictions that are in the folder's ``runs/`` are scored again. Then some cells are run
    again from nothing, as ``run`` does. Results that were made by these versions on this kind of
    processor have to be equal, value by value; others may differ as much as processors do.
    Nothing is written but the feature cache.

    Args:
        out: the folder with ``results/``, as ``run`` takes it.
        suites: names, or paths of YAML files; by default all that the folder holds.
        cells: how many cells to run again, drawn at random over all suites.
        seed: of the draw.
        rerun: the methods whose cells are drawn; by default all.
        cold: whether images are encoded again, into a cache that is thrown away.
        methods: files of methods that are not among ``methods()``, separated by commas; they are
            run as code.
        unverified: suites whose rows may stand though the weights or images are not here; of any
            other such a row is a finding, but for reported rows of real models, and for weights
            that do not ship and can be made.
        device: where to compute.
        progress: called with a line before each step.

    Returns:
        What was looked at and found: ``findings``, each with its file, line, field and both
        values (``frame``), ``notes``, the ``cells`` that were run again, and how many were not
        (``not_run``, by suite).

    Raises:
        CompatbenchError: no results, an unknown or broken suite, a method of ``rerun`` without
            results, or a cache that cannot be written.
    """
    out = Path(out)
    cards, unknown = _find_suites(out / RESULTS, suites)
    audit = Audit([card.name for card in cards], seed, unknown)
    files = ResultFiles(out)
    stored: list[StoredSuite] = []
    with Planner() as planner:
        if methods is not None:
            add_files(planner, methods)
        for card in cards:
            progress(f"{card.name}: files, settings, keys, predictions")
            suite = read_stored_suite(files, card, planner)
            stored.append(suite)
            audit.findings += suite.findings
            # What follows from a broken file is not reported: its cause is.
            if not suite.broken:
                allowed = suite.reported or card.name in unverified
                _check_suite(audit, suite, RunStore(out / "runs"), allowed)
                audit.findings += check_origins(suite, files)
        progress("every file of results/ and of the pages")
        findings, notes = check_files(files, cards, stored, suites_alone=bool(suites))
        audit.findings += findings
        audit.notes += notes
        drawn = _draw_cells(stored, rerun, cells, seed)
        with scratch_folder() as folder:
            cache = folder if cold else default_cache_folder()
            store = RunStore(folder / "runs")
            try:
                _run_cells(drawn, store, cache, device, planner, progress)
            except CompatbenchError as error:
                problem = f"cells cannot be run again: {error}"
                audit.findings.append(Finding(str(out / RESULTS), problem))
            _compare_cells(audit, stored, drawn, store)
    return audit


def _run_cells(
    drawn: Sequence[tuple[StoredSuite, Cell]],
    store: RunStore,
    cache: Path,
    device: str,
    planner: Planner,
    progress: Callable[[str], object],
) -> None:
    """Run cells into an empty store, in the process of the planner.

    Raises:
        CompatbenchError: a cell cannot run here; none is run after it.
    """
    suites = {cell: suite.card.name for suite, cell in drawn}

    def follow(event: Event) -> None:
        if event.kind == "started":
            progress(f"runs again {suites[event.cell]}: {event.cell}")

    one_worker = Compute(device=device, jobs=1)
    run_here(Job(list(suites), store.folder, cache, one_worker), follow, planner)


def _compare_cells(
    audit: Audit,
    stored: Sequence[StoredSuite],
    drawn: Sequence[tuple[StoredSuite, Cell]],
    store: RunStore,
) -> None:
    """Add to an audit what differs in the cells that were run again."""
    for suite in stored:
        again = Rerun(suite, store)
        number = 0
        for other, cell in drawn:
            record = store.read(cell.key)
            if other is suite and record is not None:
                audit.cells.append(f"{suite.card.name}: {cell}")
                audit.findings += again.check(cell, record)
                number += 1
        audit.not_run[suite.card.name] = len(suite.cells) - number
        audit.notes += again.notes()


def _check_suite(audit: Audit, suite: StoredSuite, store: RunStore, unverified: bool) -> None:
    """Add to an audit what a suite's rows, settings and stored predictions show."""
    audit.methods += len(suite.methods)
    audit.rows += len(suite.rows)
    audit.findings += check_settings(suite)
    audit.findings += check_keys(suite)
    audit.findings += check_completeness(suite)
    name = suite.card.name
    scored = score_again(suite, store)
    audit.scored += scored.rows
    audit.findings += scored.findings
    if scored.elsewhere:
        made = "made by another processor or other versions than their rows"
        predictions = f"the predictions of {count(scored.elsewhere, 'cell')} in 'runs/'"
        audit.notes.append(f"{name}: {predictions} were {made}, and were not compared with them")
    skipped = len(suite.rows) - len(suite.here(suite.rows))
    if not skipped:
        return
    audit.unchecked[name] = skipped
    problem = f"{skipped} rows cannot be made again; missing here: {suite.missing}"
    # Backbones that a command of the suite makes do not ship: nobody has to bring them.
    made = set()
    if suite.card.made_by:
        made = {*suite.missing.backbones} - {*backbone_cards.names()}
    if unverified or made == {*suite.missing.absent}:
        audit.notes.append(f"{name}: {problem}; they are reported, not verified")
    else:
        problem += f"; get it, or take them as reported: --unverified {name}"
        audit.findings.append(Finding(str(suite.folder), problem))


def _draw_cells(
    stored: Sequence[StoredSuite], rerun: Sequence[str] | None, number: int, seed: int
) -> list[tuple[StoredSuite, Cell]]:
    """Draw cells over all suites, at most ``number``; return them suite by suite."""
    every = [(suite, cell) for suite in stored for cell in suite.cells]
    if rerun is not None:
        unknown = {*rerun} - {cell.name for _, cell in every}
        if unknown:
            problem = f"'{min(unknown)}': the results that were read have no cell of this method"
            raise CompatbenchError(f"--rerun (in Python: rerun): {problem}")
        every = [(suite, cell) for suite, cell in every if cell.name in rerun]
    drawn = random.Random(seed).sample(every, min(number, len(every)))
    return [pair for suite in stored for pair in drawn if pair[0] is suite]


def _find_suites(
    results: Path, selected: Sequence[str] | None
) -> tuple[list[SuiteCard], list[Finding]]:
    """Return the suites to audit, by default all, and what no suite explains in the folder."""
    try:
        entries = sorted(results.iterdir())
    except OSError as error:
        raise CompatbenchError(
            f"cannot read {results}: {error.strerror}; give the folder that holds results/ with "
            "--out, or start with 'compatbench run'"
        ) from None
    if selected:
        cards = [suite_cards.read(name) for name in selected]
        for card in cards:
            if not (results / card.name).is_dir():
                raise CompatbenchError(f"{results} holds no results of suite '{card.name}'")
        return cards, []
    cards = []
    findings = []
    for entry in entries:
        if kind_of(entry) != "folder":
            continue  # is found with the other files
        if entry.name in suite_cards.names():
            cards.append(suite_cards.read(entry.name))
        elif entry.name not in NO_SUITES:
            findings.append(Finding(str(entry), "no suite has that name; give its file: --suite"))
    if not cards and not findings:
        raise CompatbenchError(f"{results} holds no results; start with 'compatbench run'")
    return cards, findings
