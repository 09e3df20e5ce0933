"""The audit of a results folder: what it looks at, in which order, and what it reports."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import pandas as pd

from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import SuiteCard, backbone_cards, suite_cards
from compatbench.engine.compute import Compute
from compatbench.engine.store import RunStore
from compatbench.engine.worker import make_worker
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.files import check_files
from compatbench.extras.audit.findings import Finding
from compatbench.extras.audit.stored_suite import StoredSuite, read_stored_suite
from compatbench.extras.audit.suite_checks import (
    check_keys,
    check_settings,
    run_again,
    score_again,
)
from compatbench.files.kinds import kind_of
from compatbench.files.scratch import scratch_folder
from compatbench.method.registry import builtin_methods
from compatbench.results.result_files import NO_SUITES, RESULTS, ResultFiles

CELLS = 10  # that are run again unless another number is given


@dataclass
class Audit:
    """What an audit looked at and found."""

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

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each finding, with its file, line, field, problem and both values."""
        return pd.DataFrame(self.findings, columns=[column.name for column in fields(Finding)])


def audit_results(
    out: Path | str = ".",
    suites: Sequence[str] | None = None,
    *,
    cells: int = CELLS,
    seed: int = 1,
    cold: bool = False,
    methods: str | None = None,
    unverified: Collection[str] = (),
    device: str = "auto",
    progress: Callable[[str], object] = lambda _: None,
) -> Audit:
    """Finds out whether results are what this installation makes.

    Every file is read. Keys and data of every row are computed again, and settings and pages are
    compared with those that the code gives. Predictions that are in the folder's ``runs/`` are
    scored again. Then some cells are run again from nothing, as ``run`` does. Results that were
    made by these versions on this kind of processor have to be equal, value by value; of others,
    the rows that differ are counted. Nothing is written but the feature cache.

    Args:
        out: the folder with ``results/``, as ``run`` takes it.
        suites: names, or paths of YAML files; by default all that the folder holds.
        cells: how many cells to run again, drawn at random over all suites.
        seed: of the draw.
        cold: whether images are encoded again, into a cache that is thrown away.
        methods: files of methods that are not among ``methods()``, separated by commas; they are
            run as code.
        unverified: suites whose rows may stand though the weights or images are not here; of any
            other such a row is a finding, but for weights that do not ship and can be made.
        device: where to compute.
        progress: called with a line before each step.

    Returns:
        What was looked at and found: ``findings``, each with its file, line, field and both
        values (``frame``), ``notes``, and the ``cells`` that were run again.

    Raises:
        CompatbenchError: no results, an unknown or broken suite, or a cache that cannot be
            written.
    """
    registry = builtin_methods()
    out = Path(out)
    if methods is not None:
        registry.select(methods)
    cards, unknown = _find_suites(out / RESULTS, suites)
    audit = Audit([card.name for card in cards], seed, unknown)
    files = ResultFiles(out)
    stored: list[StoredSuite] = []
    for card in cards:
        progress(f"{card.name}: files, settings, keys, predictions")
        suite = read_stored_suite(files, card, registry)
        stored.append(suite)
        audit.methods += len(suite.methods)
        audit.rows += len(suite.rows)
        scored, findings = score_again(suite, RunStore(out / "runs"))
        audit.scored += scored
        audit.findings += [*suite.findings, *check_settings(suite), *check_keys(suite), *findings]
        if skipped := len(suite.rows) - len(suite.here(suite.rows)):
            audit.unchecked[card.name] = skipped
            problem = f"{skipped} rows cannot be made again; missing here: {suite.missing}"
            known = backbone_cards.names()
            made = {n for n in suite.missing.backbones if card.made_by and n not in known}
            if card.name in unverified or made == {*suite.missing.absent}:
                audit.notes.append(f"{card.name}: {problem}; they are reported, not verified")
            else:
                problem += f"; get it, or take them as reported: --unverified {card.name}"
                audit.findings.append(Finding(str(suite.folder), problem))
    progress("every file of results/ and of the pages")
    audit.findings += check_files(files, cards, stored, suites_alone=bool(suites))
    every = [(suite, cell) for suite in stored for cell in suite.cells]
    drawn = random.Random(seed).sample(every, min(cells, len(every)))
    with scratch_folder() as folder:
        cache = folder if cold else default_cache_folder()
        worker = make_worker(folder / "runs", cache, Compute(device=device))
        for suite in stored:
            if chosen := [cell for other, cell in drawn if other is suite]:
                names = [f"{suite.card.name}: {cell}" for cell in chosen]
                progress(f"runs again {', '.join(names)}")
                notes, findings = run_again(suite, chosen, worker)
                audit.cells += names
                audit.notes += notes
                audit.findings += findings
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
        if kind_of(entry) != "folder":
            continue  # is found with the other files
        if entry.name in suite_cards.names():
            cards.append(suite_cards.read(entry.name))
        elif entry.name not in NO_SUITES:
            findings.append(Finding(str(entry), "no suite has that name; give its file: --suite"))
    if not cards and not findings:
        raise CompatbenchError(f"{results} holds no results; start with 'compatbench run'")
    return cards, findings
