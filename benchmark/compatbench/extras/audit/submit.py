"""Prepare the files of a pull request with rows of real models, which the project cannot run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from compatbench.backbone.load import read_backbone
from compatbench.backbone.load.find_weights import find_weights
from compatbench.backbone.load.weights import hash_weights
from compatbench.data.cards import SuiteCard, names_elsewhere, suite_cards
from compatbench.engine.execute.planning import Planner
from compatbench.engine.missing import find_missing, suite_backbones
from compatbench.engine.request import make_request
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.messages import first_problem
from compatbench.results.reports import (
    REPORTED,
    RowReport,
    RowReports,
    largest_difference,
    reports_text,
)
from compatbench.results.result_files import RESULTS, ResultFiles
from compatbench.results.stored_method import StoredMethod, join_provenance
from compatbench.tables.pages.leaderboard import report
from compatbench.tables.suite_page import read_suite_page


@dataclass(frozen=True)
class Submission:
    """The files of a pull request with rows.

    Attributes:
        methods: those whose rows were reported or measured again now.
        differences: by method, the largest difference between both measurements in percentage
            points; empty if the rows were not measured before.
        left_out: methods that were not measured again completely.
        paths: files and folders that belong to the pull request.
    """

    suite: str
    methods: tuple[str, ...]
    differences: Mapping[str, float]
    left_out: tuple[str, ...]
    paths: tuple[Path, ...]


def submit_rows(
    suite: str,
    by: str,
    *,
    out: str | Path = ".",
    again: str | Path | None = None,
) -> Submission:
    """Prepare a pull request with the rows of a suite of real models.

    Names you, the hardware, the versions and the hashes of the weights in
    ``results/<suite>/reported.json``, and makes the pages again. The rows must be those that this
    version gives with the weights and images of this machine.

    Args:
        suite: the suite that was run, such as ``paper-small``.
        by: your name as it will be shown, such as ``Ada (github.com/ada)``.
        out: the clone of the project, which contains the rows.
        again: the folder of a run (its ``--out``) that measured reported rows again; its rows are
            compared with those of ``out``, and only the comparison is stored.

    Raises:
        CompatbenchError: a suite that the project measures itself, no rows, rows of other weights,
            images or versions, or missing weights or images.
    """
    card = suite_cards.read(suite)
    if not names_elsewhere(card) or card.publish is not True:
        raise CompatbenchError(
            f"suite '{card.name}': rows are reported only of suites of real models that the "
            "leaderboard shows, such as 'paper-small'"
        )
    out = Path(out)
    files = ResultFiles(out)
    reports = files.read_reports(card.name) or RowReports()
    measured = files if again is None else ResultFiles(Path(again))
    methods = _read_measured(measured, card)
    _require_valid(card, methods, measured.out)
    hashes = files.hash_rows(card.name)
    if again is None:
        chosen = _not_reported(methods, reports, hashes)
        differences: dict[str, float] = {}
    else:
        _require_somebody_else(by, reports)
        differences = _compare(files.read_methods(card.name), methods, reports, hashes)
        chosen = {name: methods[name] for name in differences}
    if not chosen:
        raise CompatbenchError(
            f"{out / RESULTS / card.name / REPORTED}: there are no rows to add; reported rows can "
            "be measured again by somebody else, completely, in another folder (--again)"
        )
    described = _describe(card, by, measured, chosen, hashes, differences)
    reports = reports.add(described) if again is None else reports.add_again(described)
    write_atomic(files.folder(card.name) / REPORTED, reports_text(reports).encode())
    pages = report(out).pages
    return Submission(
        suite=card.name,
        methods=tuple(chosen),
        differences=differences,
        left_out=tuple(name for name in methods if again is not None and name not in chosen),
        paths=(files.folder(card.name), *pages),
    )


def _not_reported(
    methods: Mapping[str, StoredMethod], reports: RowReports, hashes: Mapping[str, str]
) -> dict[str, StoredMethod]:
    """Return the methods whose present rows nobody has reported."""
    new = [name for name in methods if not reports.origin(name, hashes[name]).by]
    return {name: methods[name] for name in new}


def _require_somebody_else(by: str, reports: RowReports) -> None:
    """Raise an error if the person who measures rows again also reported some."""
    if by in {report.by for report in reports.reported}:
        raise CompatbenchError(f"{by} reported these rows; somebody else must measure them again")


def _compare(
    reported: Mapping[str, StoredMethod],
    again: Mapping[str, StoredMethod],
    reports: RowReports,
    hashes: Mapping[str, str],
) -> dict[str, float]:
    """Return the largest difference of each method whose reported rows were all measured again."""
    differences = {}
    for name, method in again.items():
        if not reports.origin(name, hashes.get(name, "")).by:
            continue
        difference = largest_difference(reported[name].rows, method.rows)
        if difference is not None:
            differences[name] = difference
    return differences


def _read_measured(files: ResultFiles, card: SuiteCard) -> dict[str, StoredMethod]:
    """Return the methods of a suite that have rows.

    Raises:
        CompatbenchError: there are none.
    """
    methods = files.read_methods(card.name)
    if methods:
        return methods
    raise CompatbenchError(
        f"{files.out / RESULTS / card.name} holds no rows; run 'compatbench run --suite "
        f"{card.name}' first"
    )


def _require_valid(card: SuiteCard, methods: Mapping[str, StoredMethod], out: Path) -> None:
    """Raise an error unless the rows are those of this version, these weights and these images."""
    missing = find_missing(card)
    if missing:
        raise CompatbenchError(
            f"missing here: {missing}; report rows on the machine that measured them, so that they "
            "can be compared with its weights and images"
        )
    rows = {name: method.rows for name, method in methods.items()}
    with Planner() as planner:
        planner.plan(partial(make_request, card, list(methods), out=out))
        outdated = planner.find_outdated_rows(rows)
    if outdated:
        name = min(outdated)[0]
        raise CompatbenchError(
            f"{out / RESULTS / card.name / name}.csv has rows of other weights, images, settings "
            "or versions; run the suite again, and then report its rows"
        )


def _describe(
    card: SuiteCard,
    by: str,
    measured: ResultFiles,
    methods: Mapping[str, StoredMethod],
    hashes: Mapping[str, str],
    differences: Mapping[str, float],
) -> RowReport:
    """Return who measured the rows of methods, on what, and with which command."""
    versions = join_provenance(method.provenance for method in methods.values())
    hardware = versions.pop("processor", ())
    weights = {}
    for name in suite_backbones(card):
        weights[name] = hash_weights(find_weights(read_backbone(name, card)))
    try:
        return RowReport(
            by=by,
            command=_command(card, measured, methods),
            hardware=hardware,
            versions=versions,
            weights=weights,
            rows={name: hashes[name] for name in methods},
            differences=dict(differences),
        )
    except ValidationError as error:
        where, message = first_problem(error)
        if where == "by":
            where = f"--name '{by}'"
            message = "give 1 to 100 letters, digits, spaces and ()@.,+/-"
        raise CompatbenchError(f"{where}: {message}") from None


def _command(card: SuiteCard, files: ResultFiles, methods: Collection[str]) -> str:
    """Return the command that gives the rows of these methods."""
    command = read_suite_page(card, files).run_command()
    return command.replace("--methods all", f"--methods {','.join(sorted(methods))}")
