"""The audit of a results folder: what it looks at, in which order, and what it reports."""

from __future__ import annotations

import random
import secrets
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.audit.findings import Finding, compare_file, list_findings
from compatbench.audit.result_checks import check_suite, recount_zero_shot
from compatbench.audit.stored_suite import PLACE, StoredSuite, read_stored_suite
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.data.draws import read_draws
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.cell import Cell
from compatbench.engine.execute.compute import resolve_device
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.method.registry import builtin_methods
from compatbench.pages.html_report import REPORT, make_report
from compatbench.pages.leaderboard import render_pages
from compatbench.results.collect import rows_of
from compatbench.results.rows import FLIPS, Row, to_frame
from compatbench.results.store import FIGURES, PUBLISHED, RESULTS

COUNTS = ("correct", "total", "zero_shot_correct", *FLIPS)
# Milliseconds for seconds are a factor of 1000. A machine in use can make a fit slower by more
# than a hundred, so that a time proves little, and one that is too short proves nothing.
MOST_TIMES = 500
LEAST_SECONDS = 0.02
ECE_POINTS = 2.0
DIVERSITY = 0.05


@dataclass(frozen=True)
class Sampled:
    """A cell to run again: from which of so many parts, from 1, the cheapest, it was drawn."""

    suite: str
    cell: Cell
    part: int
    parts: int
    seconds: float  # of its fit, by its cost file

    def __str__(self) -> str:
        which = f"part {self.part} of {self.parts} by cost"
        return f"{self.cell} ({which}, fit {self.seconds:,.1f} s as recorded)"

    def to_dict(self) -> dict[str, Any]:
        """The suite, the cell's place and key, and the part, as JSON values."""
        place = ("task", "source", "shots", "seed", "transfer", "key")
        cell = {name: getattr(self.cell, name) for name in place}
        method = {"suite": self.suite, "method": self.cell.name}
        return {**method, **cell, "part": self.part, "of": self.parts}


@dataclass
class Audit:
    """What an audit looked at and found."""

    suites: list[str]
    seed: int  # of the draw of cells
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was not looked at, or was allowed
    methods: int = 0  # files that were read
    rows: int = 0
    sample: list[Sampled] = field(default_factory=list)  # the cells that were run again

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        sample = [one.to_dict() for one in self.sample]
        return {**vars(self), "sample": sample, "findings": list(map(asdict, self.findings))}

    def to_frame(self) -> pd.DataFrame:
        """A row for each finding, with its file, line, field, problem and both values."""
        return pd.DataFrame(self.findings, columns=[column.name for column in fields(Finding)])


def audit_results(
    out: Path | str = ".",
    suites: Sequence[str] | None = None,
    *,
    cells: int = 5,
    seed: int | None = None,
    tolerance: int | None = None,
    zero_shot: bool = True,
    methods: str | None = None,
    only: Collection[str] | None = None,
    shots_files: Sequence[Path] = (),
    device: str = "auto",
    progress: Callable[[str], object] = lambda _: None,
) -> Audit:
    """Finds out whether results are what this installation makes.

    Every file is read. Keys and data of every row are computed again, and all counts, costs,
    settings and pages must agree with each other. Then some cells are run again from nothing.
    Nothing is written but the feature cache.

    Args:
        out: the folder with ``results/``, as ``run`` takes it.
        suites: names, or paths of YAML files; by default all that the folder holds.
        cells: how many cells to run again, over all suites; 0 is allowed.
        seed: of the draw of these; by default a new one.
        tolerance: images that a count may differ by when it is computed again; by default none
            on the machine that made the results, 2 % of the test images on others.
        zero_shot: whether zero-shot counts are computed again.
        methods: files of methods that are not among ``methods()``, separated by commas; they are
            run as code.
        only: names of the methods whose cells may be run again; by default all.
        shots_files: few-shot draws that the results were trained on.
        device: where to compute.
        progress: called with a line before each step.

    Returns:
        What was looked at and found: ``findings``, each with its file, line, field and both
        values (``to_frame()``), ``notes``, and the ``sample`` of cells that were run again.

    Raises:
        CompatbenchError: no results, an unknown or broken suite, or a cache that cannot be
            written.
    """
    device, draws = resolve_device(device), read_draws(shots_files)
    registry = builtin_methods()
    if methods is not None:
        registry.select(methods)
    out = Path(out)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    cards, unknown = _find_suites(out / RESULTS, suites)
    audit = Audit([card.name for card in cards], seed, unknown)
    features = FeatureCache(default_cache_folder())
    stored: dict[str, StoredSuite] = {}
    for card in cards:
        progress(f"{card.name}: files, keys, counts")
        suite = read_stored_suite(out / RESULTS / card.name, card, registry, draws, tolerance)
        stored[card.name] = suite
        audit.methods += len(suite.methods)
        audit.rows += len(suite.rows)
        audit.findings += check_suite(suite)
        if zero_shot:
            audit.findings += recount_zero_shot(suite, features, device)
        if suite.missing:
            skipped = len(suite.rows) - len(suite.here(suite.rows))
            audit.notes.append(
                f"{card.name}: {skipped} rows are not checked; missing here: {suite.missing}"
            )
    if not zero_shot:
        audit.notes.append("zero-shot is not computed again, as was asked")
    progress("leaderboard.md, report, figures")
    audit.findings += check_pages(out, cards)
    audit.sample = draw_sample(stored, only, cells, seed)
    audit.notes += dict.fromkeys(stored[one.suite].tolerance.why for one in audit.sample)
    with tempfile.TemporaryDirectory(prefix="compatbench-audit-") as store:
        for one in audit.sample:
            progress(f"{one.suite}: runs again {one}")
            suite = stored[one.suite]
            audit.findings += check_again(suite, one.cell, Path(store), features, device)
    return audit


def _find_suites(
    results: Path, wanted: Sequence[str] | None
) -> tuple[list[SuiteCard], list[Finding]]:
    """The suites to audit, by default all, and what is in the folder that no suite explains."""
    try:
        entries = sorted(results.iterdir())
    except OSError as error:
        raise CompatbenchError(
            f"cannot read {results}: {error.strerror}; give the folder that holds results/ with "
            "--out, or start with 'compatbench run'"
        ) from None
    cards, findings = [suite_cards.read(name) for name in wanted or ()], []
    for card in cards:
        if not (results / card.name).is_dir():
            raise CompatbenchError(f"{results} holds no results of suite '{card.name}'")
    for entry in () if wanted else entries:
        if entry.is_symlink():
            findings.append(Finding(str(entry), "is a link; results are read from here only"))
        elif entry.is_dir() and entry.name in suite_cards.names():
            cards.append(suite_cards.read(entry.name))
        elif entry.is_dir() and entry.name not in (FIGURES, PUBLISHED):
            findings.append(Finding(str(entry), "no suite has that name; give its file: --suite"))
    if not cards and not findings:
        raise CompatbenchError(f"{results} holds no results; start with 'compatbench run'")
    return cards, findings


def check_pages(out: Path, suites: Sequence[SuiteCard]) -> list[Finding]:
    """Pages and figures that are not what the results give; of pages, the line that differs.

    One of the suites may come from a file of its own.
    """
    if not any(suite.publish for suite in suites):
        return []
    own = [suite for suite in suites if suite.name not in suite_cards.names()]
    findings, problem = [], "is not what the results give; run 'compatbench leaderboard'"
    with warnings.catch_warnings():
        # A folder that no suite explains is a finding of its own.
        warnings.simplefilter("ignore", CompatbenchWarning)
        try:
            for path, text in render_pages(out, own[0] if own else None).items():
                findings += compare_file(path, text, problem)
            if (out / REPORT).exists() or (out / RESULTS / FIGURES).is_dir():
                make_report(out, check=True)
        except CompatbenchError as error:
            findings.append(Finding(str(out / RESULTS), str(error)))
    return findings


def draw_sample(
    stored: Mapping[str, StoredSuite], only: Collection[str] | None, count: int, seed: int
) -> list[Sampled]:
    """Draws from the cells of all suites that have rows, of the methods named if any are."""
    cells, seconds = {}, {}
    for name, suite in stored.items():
        seconds |= dict(zip(suite.costs["key"], suite.costs["fit_seconds"], strict=True))
        measured = set(suite.planned.merge(suite.rows[["method", *PLACE]])["key"])
        for cell in suite.cells:
            if cell.key in measured and (only is None or cell.name in only):
                cells.setdefault(cell.key, (name, cell))
    return sample_cells(list(cells.values()), seconds, count, seed)


def sample_cells(
    cells: Sequence[tuple[str, Cell]], seconds: Mapping[str, float], count: int, seed: int
) -> list[Sampled]:
    """Draws cells: they are ordered by recorded cost and cut into parts, one from each.

    So a sample never consists of cheap cells alone, which a forger would hope for; an unknown cost
    counts as the longest. A method that was drawn already is avoided.
    """
    unknown = max(seconds.values(), default=0.0)
    costs = {cell.key: seconds.get(cell.key, unknown) for _, cell in cells}
    ordered = sorted(cells, key=lambda one: (costs[one[1].key], one[1].name, one[1].key))
    parts, rng, drawn = min(count, len(ordered)), random.Random(seed), list[Sampled]()
    for number in range(parts):
        part = ordered[number * len(ordered) // parts : (number + 1) * len(ordered) // parts]
        taken = {one.cell.name for one in drawn}
        suite, cell = rng.choice([one for one in part if one[1].name not in taken] or part)
        drawn.append(Sampled(suite, cell, number + 1, parts, costs[cell.key]))
    return drawn


def check_again(
    suite: StoredSuite, cell: Cell, store: Path, cache: FeatureCache, device: str
) -> Iterator[Finding]:
    """Runs a cell from nothing, and compares its rows and, on equal machines, its time."""
    rows = suite.rows.loc[suite.rows["method"] == cell.name]
    try:
        record = Worker(RunStore(store), cache, device).run(cell)
    except CompatbenchError as error:
        yield Finding(rows["file"].iloc[0], f"{cell} cannot run: {error}")
        return
    again = to_frame(rows_of(cell, record), Row)
    yield from _compare_rows(suite, rows.merge(again, on=PLACE, suffixes=("", "_again")))
    if suite.tolerance.exact:
        costs = suite.costs.loc[suite.costs["key"] == cell.key]
        most = MOST_TIMES * max(record.fit_seconds, LEAST_SECONDS)
        yield from list_findings(
            costs.head(1).query(f"fit_seconds > {most}"),
            f"the fit took {record.fit_seconds:,.2f} s here; is the unit seconds?",
            "fit_seconds",
            f"at most {MOST_TIMES} times as much",
            "{fit_seconds:,.2f}",
        )


def _compare_rows(suite: StoredSuite, both: pd.DataFrame) -> Iterator[Finding]:
    problem = "the cell was run again and gave another number"
    unlike = both.query("status != status_again")
    yield from list_findings(unlike, problem, "status", "{status_again} {reason_again}")
    for column in ("parameters", "module_bytes"):
        unlike = both.query(f"{column} != {column}_again")
        yield from list_findings(unlike, problem, column, f"{{{column}_again}}")
    both = both.query("status == 'ok' and status_again == 'ok'")
    images = both["total_again"].map(suite.tolerance.of)
    points = 100 * images / both["total_again"] + ECE_POINTS
    most = {"total": 0, "ece": 1e-9 if suite.tolerance.exact else points + 1e-9}
    most["prompt_diversity"] = 1e-9 if suite.tolerance.exact else DIVERSITY
    for column in (*COUNTS, "ece", "prompt_diversity"):
        # What one side does not have is not compared.
        wrong = (both[column] - both[f"{column}_again"]).abs() > most.get(column, images)
        unlike = both.loc[wrong.fillna(False)]
        yield from list_findings(unlike, problem, column, f"{{{column}_again}}")
