"""A suite as a whole: its run, its results, and the choice of settings.

``run_request`` is a run from top to bottom: plan, run the cells, score them, write the pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from compatbench.data.cache_files import FEATURES, default_cache_folder
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.data.cards.shots import Numbers
from compatbench.data.live_task import choose_suite
from compatbench.engine.cell import Cell
from compatbench.engine.compute import Compute
from compatbench.engine.execute.events import Event, OnEvent
from compatbench.engine.execute.planning import Planner, PlannerHere
from compatbench.engine.execute.run_plan import run_plan
from compatbench.engine.plan import Plan
from compatbench.engine.request import (
    CLASSES,
    Methods,
    Names,
    Request,
    check_names,
    make_request,
)
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import remove_remains, write_atomic
from compatbench.files.kinds import require
from compatbench.method.live_class import write_classes
from compatbench.results.collect import ResultCache, collect_results, partial_results
from compatbench.results.public_results import Results
from compatbench.results.result_files import (
    FIGURES,
    REPORT,
    RESULTS,
    ResultFiles,
    result_folders,
)
from compatbench.results.tuned_settings import write_settings
from compatbench.results.tuning_records import Tuning, show_record, tuning_path
from compatbench.results.tuning_search import plan_search, read_tuning
from compatbench.runs.progress import show_progress
from compatbench.tables.pages.leaderboard import LEADERBOARD, read_readme, write_pages
from compatbench.tables.pages.report_site import write_site
from compatbench.tables.suite_page import SuitePage, published_pages, read_suite_page


def run(
    suite: str | SuiteCard | None = None,
    methods: Methods = "all",
    *,
    tasks: Names = "all",
    seeds: Numbers | None = None,
    shots: Numbers | None = None,
    transfers: Names | None = None,
    out: str | Path = ".",
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = None,
    skip_missing: bool = False,
    shard: str | None = None,
    config: Mapping[str, object] | None = None,
    compute: Compute | None = None,
    progress: bool = True,
    on_start: Callable[[Plan, int], object] = lambda plan, jobs: None,
    on_event: Callable[[Event], object] = lambda event: None,
) -> Results:
    """Run a suite, and write ``results/`` and ``leaderboard.md``.

    Finished cells are never run again: stop at any time, and the same call continues. The first
    seed of all methods is run first, so that a full ranking is there early. Several runs may share
    a folder, on one machine or on many: each cell is run by one of them.

    Args:
        suite: a suite: a name (see ``list suites``), the path of a YAML file, or a card. The
            default is that of a task of ``cb.task``, and otherwise ``mini``.
        methods: methods: names, globs, ``all`` that the suite compares, comma lists, exclusions
            (``all,!coop``), or the path of a method file (``./mine.py``), which is run as code. In
            a list, also classes that a notebook or a script defines; their source is kept in
            ``results/classes/``.
        tasks: tasks of the suite: names, globs, ``all``, comma lists, exclusions, or the path of a
            card. A task stands for its variants, too, which can also be named alone.
        seeds: seeds, such as ``1,2``; by default the suite's, or those that its card names for a
            first run (``run_seeds``).
        shots: shots, such as ``4,8`` or ``all``; by default the suite's.
        transfers: how modules reach the targets, such as ``copied,words`` (see ``list
            transfers``); by default the suite's, most often ``copied``.
        out: the folder of ``runs/``, ``results/`` and ``leaderboard.md``.
        precision: number format of the frozen towers, by default the suite's; modules are always
            trained in float32. ``tf32`` is float32 with the short products of NVIDIA's cards, in
            training, too. Another precision gives separate cells, which replace the previous rows
            in ``results/``.
        skip_missing: leave out cells whose images or weights are missing, and run the others.
        shard: the I-th of N parts of the work, about equal in time, such as ``3/8``: one for each
            job of an array. The results of all parts add up.
        config: settings to try: each method is run as the suite sets it, and with these, as
            ``METHOD+NAME-VALUE``. Nothing of a trial is written to ``results/`` and its pages.
        progress: show how far it is, in a notebook, or on a terminal's stream of errors.
        on_start: is given the plan and the number of workers before the first cell.
        on_event: is given every event of a cell.

    Returns:
        The results of the request (``results`` has those of the whole suite);
        ``failures`` has the cells that failed in this call.

    Raises:
        CompatbenchError: broken input, missing images or weights, or a folder that cannot be
            written. What was measured before is kept.
    """
    suite = choose_suite(suite, tasks)
    check_names(suite, tasks=tasks, transfers=transfers)
    # Other processes cannot import a class of a notebook.
    selection = write_classes(methods, Path(out) / CLASSES)
    check_names(suite, methods=selection)
    ask = partial(
        make_request,
        suite,
        selection,
        tasks=tasks,
        seeds=seeds,
        shots=shots,
        transfers=transfers,
        out=out,
        precision=precision,
        skip_missing=skip_missing,
        shard=shard,
        config=config,
    )
    compute = compute or Compute()
    with (
        start_planner(compute) as planner,
        show_progress(progress, Path(out), on_start, on_event) as (start, follow),
    ):
        finished = run_request(ask, planner, compute, start, follow)
    # Everything that was requested and is not there yet counts as missing.
    part = finished.page.restrict(**finished.plan.selection)
    return Results(part.results, part.expected, finished.failures)


def start_planner(compute: Compute) -> Planner | PlannerHere:
    """Start the process that imports the methods, unless a debugger needs them in this one."""
    if compute.executor == "here":
        return PlannerHere()
    return Planner(compute.threads, compute.timeout)


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended."""

    plan: Plan
    page: SuitePage  # the whole suite with its rows; for a trial, with the rows of its cells
    failures: tuple[tuple[Cell, str], ...]  # cells that failed, each with its error


def run_request(
    ask: Callable[[], Request],
    planner: Planner | PlannerHere,
    compute: Compute,
    on_start: Callable[[Plan, int], object],
    on_event: OnEvent,
) -> FinishedRun:
    """Run the cells of a request that are not finished, and write the results and their pages.

    Callbacks and errors are those of ``run``. Methods are imported by the planner and the workers,
    and not by this process, which scores what they predict.

    Args:
        ask: makes the request, in the planner's process.
    """
    plan = planner.plan(ask)
    first = planner if isinstance(planner, Planner) else None
    request = plan.request
    _require_cells(plan)
    files = ResultFiles(request.out)
    _check_folders(request, files)
    if request.trial:
        failures = run_plan(plan, compute, on_start, on_event, first)
        measured = partial_results(plan, ResultCache())
        return FinishedRun(plan, read_suite_page(plan.suite, files, measured), failures)
    stored = files.read_methods(request.suite.name)
    rows = {name: method.rows for name, method in stored.items()}
    outdated = planner.find_outdated_rows(rows)
    costs = files.read_costs(request.suite.name)
    plan = replace(plan, outdated=outdated, costs=costs)
    failures = run_plan(plan, compute, on_start, on_event, first)
    _publish(plan, files)
    return FinishedRun(plan, read_suite_page(plan.suite, files), failures)


def _require_cells(plan: Plan) -> None:
    """Raise CompatbenchError if none of the requested cells can run on this machine."""
    if not plan.cells:
        raise CompatbenchError(
            f"None of the cells of suite '{plan.suite.name}' can run on this machine. "
            f"'compatbench store doctor --suite {plan.request.suite_given}' lists what is missing."
        )


def results(suite: str | SuiteCard = "mini", out: str | Path = ".") -> Results:
    """Return a suite's results in ``results/``: frames, rankings and what is missing.

    Raises:
        CompatbenchError: an unknown suite, no results of it, or a broken results file.
    """
    card = suite_cards.read(suite)
    page = read_suite_page(card, ResultFiles(Path(out)))
    if not page.results.methods:
        folder = Path(out) / RESULTS / card.name
        raise CompatbenchError(f"{folder} holds no results; run the suite first")
    return Results(page.results, page.expected)


def _check_folders(request: Request, files: ResultFiles) -> None:
    """Create the folders of a run, and read all result files in them.

    Raises:
        CompatbenchError: before the work, not after it, if results cannot be read or written.
    """
    out = request.out
    results_folder = out / RESULTS
    for folder in (out / "runs", results_folder, results_folder / FIGURES, results_folder / REPORT):
        require(folder, "folder")
    for folder in (out, out / "runs", results_folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder) as probe:
                probe.write(b"probe")
        except OSError as error:
            raise CompatbenchError(f"cannot write {folder}: {error.strerror}") from None
    for folder in result_folders(out):
        files.read_methods(folder.name)
    require(out / LEADERBOARD)
    read_readme(out)
    cache = default_cache_folder()
    for folder in (out / "runs", results_folder, cache / FEATURES, cache / "weights"):
        remove_remains(folder, below=True)


def _publish(plan: Plan, files: ResultFiles) -> None:
    """Write the results of a plan's cells, and the pages that show them."""
    out = plan.request.out
    with plan.store.locked(plan.store.folder / "results.lock", on_wait=lambda: None):
        remove_remains(out)
        collect_results(plan, files)
        if plan.suite.publish:
            pages = published_pages(files, plan.suite)
            plan.store.require_folder()  # or the pages would be written into a new folder
            if (out / RESULTS / FIGURES).is_dir():
                write_site(files, pages)
            write_pages(out, pages)


def tune(
    methods: Names,
    suite: str = "mini",
    *,
    out: str | Path = ".",
    write: bool = False,
    compute: Compute | None = None,
    progress: bool = True,
    on_start: Callable[[Plan, int], object] = lambda plan, jobs: None,
    on_event: Callable[[Event], object] = lambda event: None,
) -> list[Tuning]:
    """Choose methods' settings for a suite, on training images of its development tasks.

    The settings that the suite's card names (``tuning``) are fitted on three quarters of each
    few-shot draw and tested on the last, on the first source alone. Finished fits are kept, as
    those of ``run`` are. The comparison is written to ``results/<suite>/tuning/``.

    Args:
        methods, suite, out, compute, progress, on_start, on_event: as for ``run``.
        write: put the chosen settings into ``methods`` of the suite's file.

    Returns:
        The comparison and the choice of each method. ``frame`` has a row per setting.

    Raises:
        CompatbenchError: as ``run``; a suite that does not say how settings are chosen, methods
            with nothing to choose, or one of which every setting failed.
    """
    tried: set[str] = set()  # settings; their results may ask for more
    search = plan_search(methods, suite, out, tried)
    while not tried.issuperset(search.settings):
        with show_progress(progress, None, on_start, on_event) as (start, follow):
            run_plan(search.plan, compute or Compute(), start, follow)
        tried.update(search.settings)
        search = plan_search(methods, suite, out, tried)
    tunings = [read_tuning(search, name) for name in search.methods]
    for tuning in tunings:
        path = tuning_path(Path(out), tuning.suite, tuning.method)
        write_atomic(path, show_record(tuning).encode())
        if write:
            write_settings(suite, tuning)
    return tunings
