"""The audit of a results folder: what it looks at, in which order, and what it reports."""

from __future__ import annotations

import secrets
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.backbone.device import resolve_device
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.data.draws import read_draws
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.confined.remote import ConfinedRegistry, confined_builder
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.extras.audit.findings import Finding, compare_file
from compatbench.extras.audit.rerun import check_again
from compatbench.extras.audit.result_checks import check_equal_keys, check_suite, recount_zero_shot
from compatbench.extras.audit.retrieval_checks import check_file, measure_again
from compatbench.extras.audit.sample import (
    Draw,
    Sampled,
    SampleSize,
    draw_cells,
    list_cells,
    round_robin,
)
from compatbench.extras.audit.stored_suite import StoredSuite, read_stored_suite
from compatbench.extras.audit.tolerance import find_drift
from compatbench.files.scratch import scratch_folder
from compatbench.messages import count
from compatbench.results.method_results import split_results
from compatbench.results.result_files import FIGURES, NO_SUITES, PAGES, REPORT, RESULTS, RETRIEVAL
from compatbench.tables.leaderboard import render_pages
from compatbench.tables.suite_page import published_pages


@dataclass
class Audit:
    """What an audit looked at and found."""

    suites: list[str]
    seed: int  # of the draw of cells
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was not looked at, or was allowed
    methods: int = 0  # files that were read
    rows: int = 0
    # By suite, the rows that are reported only.
    unchecked: dict[str, int] = field(default_factory=dict)
    draws: list[Draw] = field(default_factory=list)  # of cells to run again

    @property
    def sample(self) -> list[Sampled]:
        """The cells that were run again."""
        return [one for draw in self.draws for one in draw.run]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        lists = {"draws": self.draws, "sample": self.sample}
        lists = {name: [one.to_dict() for one in found] for name, found in lists.items()}
        return {**vars(self), **lists, "findings": list(map(asdict, self.findings))}

    def to_frame(self) -> pd.DataFrame:
        """A row for each finding, with its file, line, field, problem and both values."""
        return pd.DataFrame(self.findings, columns=[column.name for column in fields(Finding)])


def audit_results(
    out: Path | str = ".",
    suites: Sequence[str] | None = None,
    *,
    cells: int | None = None,
    forged: float = SampleSize.forged,
    power: float = SampleSize.power,
    minutes: float | None = None,
    seed: int | None = None,
    tolerance: int | None = None,
    zero_shot: bool = True,
    methods: str | None = None,
    only: Collection[str] | None = None,
    new: Collection[str] = (),
    each: bool = False,
    cold: bool = False,
    unverified: Collection[str] = (),
    shots_files: Sequence[Path] = (),
    device: str = "auto",
    progress: Callable[[str], object] = lambda _: None,
) -> Audit:
    """Finds out whether results are what this installation makes.

    Every file is read. Keys and data of every row are computed again, and all counts, costs,
    settings and pages must agree with each other; so must the figures of stored indexes, of which
    one gallery is measured again unless no cell is. Then some cells are run again from nothing:
    drawn at random, and so many that a share of forged ones is found with a given probability.
    Methods run in processes of their own, which are given no label of a test image. Nothing is
    written but the feature cache.

    Args:
        out: the folder with ``results/``, as ``run`` takes it.
        suites: names, or paths of YAML files; by default all that the folder holds.
        cells: how many cells to run again, over all suites, in place of the next two; 0 is allowed.
        forged: the share of cells, if that many were forged, ...
        power: ... of which one is to be found with this probability.
        minutes: after which no other cell is begun; by default there is no end.
        seed: of the draw of cells; by default a new one.
        tolerance: images that a count may differ by when it is computed again; by default none
            for results of this processor and these versions, and for others what docs/security.md
            says.
        zero_shot: whether zero-shot counts are computed again.
        methods: files of methods that are not among ``methods()``, separated by commas; they are
            run as code, in the same way.
        only: names of the methods whose cells are drawn; by default all.
        new: of these, methods of which every cell is run again, in suites whose weights and
            images ship with the project.
        each: whether a cell of every other method is run again, too, in such suites.
        cold: whether images are encoded again, into a cache that is thrown away.
        unverified: suites whose rows may stand though the weights or images are not here; of any
            other such a row is a finding.
        shots_files: few-shot draws that the results were trained on.
        device: where to compute.
        progress: called with a line before each step.

    Returns:
        What was looked at and found: ``findings``, each with its file, line, field and both
        values (``to_frame()``), ``notes``, the ``sample`` of cells that were run again, and
        ``draws``: how many of how many that was, and the ``power`` that it has.

    Raises:
        CompatbenchError: no results, an unknown or broken suite, or a cache that cannot be
            written; a share or probability that is none.
    """
    size = SampleSize(cells, forged, power, minutes)
    device, shots = resolve_device(device), read_draws(shots_files)
    registry = ConfinedRegistry()
    if methods is not None:
        registry.select(methods)
    out = Path(out)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    cards, unknown = _find_suites(out / RESULTS, suites)
    audit = Audit([card.name for card in cards], seed, unknown)
    stored: dict[str, StoredSuite] = {}
    with scratch_folder() as place:
        cache = place if cold else default_cache_folder()
        features = FeatureCache(cache)
        for card in cards:
            progress(f"{card.name}: files, keys, counts")
            suite = read_stored_suite(out / RESULTS / card.name, card, registry, shots, tolerance)
            stored[card.name] = suite
            audit.methods += len(suite.methods)
            audit.rows += len(suite.rows)
            audit.findings += check_suite(suite)
            if zero_shot:
                audit.findings += recount_zero_shot(suite, features, device)
            if skipped := len(suite.rows) - len(suite.here(suite.rows)):
                audit.unchecked[card.name] = skipped
                problem = f"{skipped} rows are not checked; missing here: {suite.missing}"
                if card.name in unverified:
                    audit.notes.append(f"{card.name}: {problem}; they are reported, not verified")
                else:
                    problem += f"; get it, or take them as reported: --unverified {card.name}"
                    audit.findings.append(Finding(str(suite.folder), problem))
        if not zero_shot:
            audit.notes.append("zero-shot is not computed again, as was asked")
        progress("leaderboard.md, report, figures")
        audit.findings += check_pages(out, cards, stored)
        audit.findings += check_equal_keys(list(stored.values())) if stored else ()
        again = cells != 0
        _check_indexes(audit, out / RESULTS / RETRIEVAL, suites, cache if again else None, device)
        all_cells = list_cells(stored)
        apart = [one for one in all_cells if not one.trains]
        if trained := len(all_cells) - len(apart):
            why = "their transfers train the module, which a method's closed process does not allow"
            audit.notes.append(f"{count(trained, 'cell')} cannot be run again: {why}")
        audit.draws = draw_cells(apart, size, seed, only, new, each)
        fits = [one.seconds for draw in audit.draws for one in draw.wanted]
        progress(f"cells to run again: {len(fits)}; by their files, fits of {sum(fits):,.0f} s")
        store, build = RunStore(place / "runs"), confined_builder(registry, device)
        worker = Worker(store, features, device, build=build)  # which fits once for all suites
        _run_again(audit, stored, size, worker, progress)
    audit.notes = list(dict.fromkeys(audit.notes))
    return audit


def _check_indexes(
    audit: Audit, folder: Path, suites: Sequence[str] | None, cache: Path | None, device: str
) -> None:
    """What is wrong with the results of stored indexes; with a cache, some are measured again."""
    for path in sorted(folder.glob("*.csv")):
        if suites and path.stem not in audit.suites:
            continue
        audit.findings += (found := list(check_file(path)))
        if cache is not None and not found:
            wrong, note = measure_again(path, audit.seed, cache, device)
            audit.findings += wrong
            audit.notes.append(note)


def _run_again(
    audit: Audit,
    stored: Mapping[str, StoredSuite],
    size: SampleSize,
    worker: Worker,
    progress: Callable[[str], object],
) -> None:
    """Runs what was drawn, while there is time, and adds what is found."""
    rows, start = [], time.monotonic()
    for draw, one in round_robin(audit.draws):
        if size.minutes is not None and time.monotonic() - start > 60 * size.minutes:
            break
        progress(f"{', '.join(one.suites)}: runs again {one}")
        draw.run.append(one)
        drift, findings = check_again(stored, one, worker)
        rows += drift
        audit.findings += findings
        audit.notes += [stored[name].tolerances[cell.name].why for name, cell in one.stands]
    audit.findings += find_drift(pd.concat(rows)) if rows else ()


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
        elif entry.is_dir() and entry.name not in NO_SUITES:
            findings.append(Finding(str(entry), "no suite has that name; give its file: --suite"))
    if not cards and not findings:
        raise CompatbenchError(f"{results} holds no results; start with 'compatbench run'")
    return cards, findings


def check_pages(
    out: Path, suites: Sequence[SuiteCard], stored: Mapping[str, StoredSuite] | None = None
) -> list[Finding]:
    """Pages and figures that are not what the results give; of pages, the line that differs.

    One of the suites may come from a file of its own.
    """
    folders = [out / RESULTS / one.name for one in suites if not one.publish]
    stray = [folder / name for folder in folders for name in PAGES if (folder / name).exists()]
    findings = [Finding(str(path), "its suite has no pages") for path in stray]
    if not any(suite.publish for suite in suites):
        return findings
    installed = suite_cards.names()
    own = next((suite for suite in suites if suite.name not in installed), None)
    whole = [one for one in (stored or {}).values() if not one.findings]
    read = {one.card.name: split_results(one.card.name, one.methods.values()) for one in whole}
    problem = "is not what the results give; run 'compatbench leaderboard'"
    with warnings.catch_warnings():
        # A folder that no suite explains is a finding of its own.
        warnings.simplefilter("ignore", CompatbenchWarning)
        try:
            pages = published_pages(out, own, read)
            for path, text in render_pages(out, pages).items():
                findings += compare_file(path, text, problem)
            if any((out / RESULTS / name).is_dir() for name in (REPORT, FIGURES)):
                from compatbench.tables.report_site import make_report

                make_report(out, True, pages)
        except CompatbenchError as error:
            findings.append(Finding(str(out / RESULTS), str(error)))
    return findings
