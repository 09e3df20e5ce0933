"""The audit of a results folder: what it looks at, in which order, and what it reports."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compatbench.audit.about import check_about, check_costs
from compatbench.audit.board import check_pages
from compatbench.audit.counts import check_fits, check_flips, check_totals, check_zero_shot
from compatbench.audit.files import MethodFiles, read_files
from compatbench.audit.findings import Finding
from compatbench.audit.places import check_places, is_here, planned_places
from compatbench.audit.sample import Sampled, sample_cells
from compatbench.audit.tolerance import Tolerance, choose_tolerance
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.data.draws import ShotsFiles
from compatbench.engine.cell import Cell
from compatbench.engine.missing import Missing, find_missing
from compatbench.engine.plan import plan_cells
from compatbench.errors import CompatbenchError
from compatbench.method.registry import MethodRegistry
from compatbench.results.collect import describe_method
from compatbench.results.store import join_provenance

Say = Callable[[str], object]


@dataclass(frozen=True)
class Options:
    """How far an audit goes.

    Attributes:
        cells: to run again, over all suites; none is allowed.
        seed: of the draw of these.
        cache: folder of the feature cache.
        tolerance: images that a count may differ by, in place of the usual.
        only: methods that cells may be drawn from; all, if None.
        zero_shot: whether zero-shot counts are computed again.
        shots_files: draws that were given and not made.
    """

    cells: int
    seed: int
    cache: Path
    device: str = "cpu"
    tolerance: int | None = None
    only: frozenset[str] | None = None
    zero_shot: bool = True
    shots_files: ShotsFiles | None = None


@dataclass
class Audit:
    """What an audit looked at and found.

    Attributes:
        notes: what could not be looked at, and what was allowed.
        sampled: the cells that were run again, by suite.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    methods: int = 0
    sampled: list[tuple[str, Sampled]] = field(default_factory=list)


@dataclass
class _Suite:
    """A suite's folder, as far as it could be read, and the cells it should hold."""

    card: SuiteCard
    methods: list[MethodFiles]
    missing: Missing
    tolerance: Tolerance
    cells: dict[str, list[Cell]]


def audit_results(
    results: Path,
    suites: Sequence[SuiteCard],
    registry: MethodRegistry,
    options: Options,
    say: Say = lambda _: None,
) -> Audit:
    """Audits some suites' folders in ``results``; nothing is written there.

    Args:
        say: is told what is done, a line at a time; it may take a while.

    Raises:
        CompatbenchError: a suite that cannot be read, or a cache that cannot be written.
    """
    audit = Audit()
    looked = []
    for card in suites:
        say(f"{card.name}: files, keys, counts")
        looked.append(_check_suite(results / card.name, card, registry, options, audit))
    say("leaderboard.md, report, figures")
    own = [card for card in suites if card.name not in suite_cards.names()]
    audit.findings += check_pages(results, own[0] if own else None)
    _run_sample(looked, options, audit, say)
    return audit


def _check_suite(
    folder: Path, card: SuiteCard, registry: MethodRegistry, options: Options, audit: Audit
) -> _Suite:
    methods, broken = read_files(folder)
    audit.findings += broken
    audit.methods += len(methods)
    audit.rows += sum(len(files.results.rows) for files in methods)
    missing = find_missing(card)
    if missing:
        skipped = sum(not is_here(row, missing) for files in methods for row in files.results.rows)
        audit.notes.append(f"{card.name}: {skipped} rows are not checked, for want of {missing}")
    known = {*registry.names(), *card.configs}
    cells = {}
    for files in methods:
        if files.name not in known:
            problem = "there is no such method here; give its file with --methods"
            audit.findings.append(Finding(files.rows_file, problem, 2, "method"))
            continue
        suite = _as_recorded(card, files)
        transfers = sorted({row.transfer for row in files.results.rows}) or [COPIED]
        cells[files.name] = [
            cell
            for transfer in transfers
            for cell in plan_cells(
                suite,
                registry,
                [name_of(files.name, transfer)],
                files=options.shots_files,
                missing=missing,
            )
        ]
    owners = {cell.key: str(cell) for planned in cells.values() for cell in planned}
    tolerance = choose_tolerance(
        join_provenance(files.results.provenance for files in methods), options.tolerance
    )
    suite = _Suite(card, methods, missing, tolerance, cells)
    for files in methods:
        audit.findings += check_totals(files)
        audit.findings += check_flips(files)
        audit.findings += check_fits(files)
        audit.findings += check_costs(files)
        if files.name in cells:
            planned = planned_places(cells[files.name])
            audit.findings += check_places(files, planned, missing, owners)
            described = _as_recorded(card, files)
            method = registry.get(described.base_method(files.name))
            audit.findings += check_about(files, describe_method(described, method, files.name))
    audit.findings += _check_zero_shot(suite, options, audit)
    return suite


def _as_recorded(card: SuiteCard, files: MethodFiles) -> SuiteCard:
    """The suite at the precision that a method's file says it was run with."""
    _, precision = files.results.differs.get("precision", ("fp32", card.training.precision))
    if precision not in ("fp32", "bf16"):
        return card
    training = card.training.model_copy(update={"precision": precision})
    return card.model_copy(update={"training": training})


def _check_zero_shot(suite: _Suite, options: Options, audit: Audit) -> list[Finding]:
    from compatbench.audit.zeroshot import count_zero_shot
    from compatbench.data.feature_cache import FeatureCache

    rows = [row for files in suite.methods for row in files.results.rows if row.status == "ok"]
    counts = {}
    plain = [row for row in rows if is_here(row, suite.missing)]
    known = {name for cell in _all_cells(suite) for name in (*cell.backbones, *cell.test_sets)}
    wheres = {
        (row.backbone, row.test_set)
        for row in plain
        if row.backbone in known and row.test_set in known
    }
    if options.zero_shot and wheres:
        cache = FeatureCache(options.cache)
        counts = count_zero_shot(wheres, cache, options.device, suite.card.training.precision)
    elif wheres:
        audit.notes.append(f"{suite.card.name}: zero-shot is not computed again, as was asked")
    allowed = {row.test_set: suite.tolerance.of(row.total or 0) for row in rows}
    return check_zero_shot(suite.methods, counts, allowed)


def _all_cells(suite: _Suite) -> list[Cell]:
    return [cell for cells in suite.cells.values() for cell in cells]


def _run_sample(suites: Sequence[_Suite], options: Options, audit: Audit, say: Say) -> None:
    """Draws over all suites at once, and runs what was drawn."""
    from compatbench.audit.rerun import compare_rows, run_again
    from compatbench.data.feature_cache import FeatureCache

    owners: dict[str, tuple[_Suite, MethodFiles]] = {}
    cells: dict[str, Cell] = {}
    seconds: dict[str, float] = {}
    for suite in suites:
        for files in suite.methods:
            stored = {row.order for row in files.results.rows}
            seconds |= {cost.key: cost.fit_seconds for cost in files.results.costs}
            for cell in suite.cells.get(files.name, []):
                drawable = options.only is None or files.name in options.only
                if drawable and stored & set(planned_places([cell])):
                    cells.setdefault(cell.key, cell)
                    owners.setdefault(cell.key, (suite, files))
    drawn = sample_cells(list(cells.values()), seconds, options.cells, options.seed)
    audit.sampled = [(owners[one.cell.key][0].card.name, one) for one in drawn]
    if not drawn:
        return
    for reason in dict.fromkeys(owners[one.cell.key][0].tolerance.why for one in drawn):
        audit.notes.append(reason)
    cache = FeatureCache(options.cache)
    with tempfile.TemporaryDirectory(prefix="compatbench-audit-") as store:
        for one in drawn:
            suite, files = owners[one.cell.key]
            say(f"{suite.card.name}: runs again {one}")
            try:
                rows, took = run_again(one.cell, Path(store), cache, options.device)
            except CompatbenchError as error:
                audit.findings.append(Finding(files.rows_file, f"{one.cell} cannot run: {error}"))
                continue
            audit.findings += compare_rows(files, rows, took, suite.tolerance)
