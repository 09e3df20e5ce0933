"""The Python interface: everything that a command can do, as a function that returns data.

    import compatbench as cb
    results = cb.run("mini", methods=["coop", "kgcoop"], seeds=[1])
    results.ranking("mini-clip", "mini-eva-clip")

Imports wait until a function needs them, so that ``import compatbench`` is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    import pandas as pd

    from compatbench.audit import Audit
    from compatbench.audit.pull_request import PullRequest
    from compatbench.conformance import Outcome
    from compatbench.data.cards import SuiteCard
    from compatbench.doctor import Diagnosis
    from compatbench.engine.evaluate import Evaluation
    from compatbench.engine.execute.settings import Event
    from compatbench.engine.execute.shards import Shard
    from compatbench.engine.plan import Plan
    from compatbench.engine.run import Compute
    from compatbench.method import Module
    from compatbench.pages.html_report import Report
    from compatbench.results.ranking_table import Results
    from compatbench.studies.claims import ClaimsReport
    from compatbench.studies.depth import DepthReport
    from compatbench.studies.embeddings import EmbeddingsReport
    from compatbench.studies.gauge import GaugeReport
    from compatbench.studies.layers import LayersReport
    from compatbench.studies.stress_report import StressReport
    from compatbench.studies.study_setup import Watch

__all__ = [
    "CompatbenchError",
    "Compute",
    "analyze_claims",
    "analyze_depth",
    "analyze_embeddings",
    "analyze_gauge",
    "analyze_layers",
    "analyze_stress",
    "audit_results",
    "backbones",
    "check_methods",
    "check_pull_request",
    "diagnose",
    "evaluate",
    "fit",
    "leaderboard",
    "methods",
    "modules",
    "plan",
    "report",
    "results",
    "run",
    "suites",
    "tasks",
    "transfers",
]

RESULTS = "results"
Names = str | Sequence[str]


def plan(
    suite: str | SuiteCard = "mini",
    methods: Names = "all",
    *,
    tasks: Names = "all",
    seeds: Sequence[int] | None = None,
    shots: Sequence[int] | None = None,
    transfers: Sequence[str] | None = None,
    out: str | Path = ".",
    precision: str | None = None,
    shots_files: Sequence[Path] = (),
    shard: Shard | None = None,
) -> Plan:
    """What ``run`` would do; nothing is fetched, trained or written.

    Args:
        suite: a name of ``suites()``, the path of a YAML file, or a card.
        methods: names, globs, exclusions (``!coop``), paths of method files; ``all`` is what
            the suite compares.
        tasks: of the suite, likewise.
        seeds, shots, transfers: the suite's by default.
        out: the folder of ``runs/`` and ``results/``.

    Returns:
        A plan: ``frame`` has a row per method and transfer with its cells, how many are done,
        failed, to do and missing, and the seconds they take; ``missing`` says what is not here.

    Raises:
        CompatbenchError: an unknown name, a broken card or method file, or an empty selection.
    """
    from compatbench.backbone.load import planning
    from compatbench.engine.plan import make_plan

    with planning():
        found = make_plan(
            suite,
            methods,
            tasks=tasks,
            seeds=seeds,
            shots=shots,
            transfers=transfers,
            out=Path(out),
            precision=precision,
            shots_files=shots_files,
            skip_missing=True,
        )
    if shard is None:
        return found
    from compatbench.engine.run import take_shard

    return take_shard(found, shard, keep=False)


def run(
    suite: str | SuiteCard = "mini",
    methods: Names = "all",
    *,
    tasks: Names = "all",
    seeds: Sequence[int] | None = None,
    shots: Sequence[int] | None = None,
    transfers: Sequence[str] | None = None,
    out: str | Path = ".",
    precision: str | None = None,
    shots_files: Sequence[Path] = (),
    skip_missing: bool = False,
    shard: Shard | None = None,
    compute: Compute | None = None,
    on_start: Callable[[Plan, int], object] = lambda plan, jobs: None,
    on_event: Callable[[Event], object] = lambda event: None,
) -> Results:
    """Runs what is missing of a suite, and writes ``results/`` and ``leaderboard.md``.

    Finished cells are never run again: stop at any time, and the same call goes on. Several
    processes may share a folder.

    Args:
        suite, methods, tasks, seeds, shots, transfers, out: as in ``plan``.
        precision: ``fp32`` or ``bf16``, what the frozen towers compute in.
        shots_files: few-shot draws to train on in place of those made here.
        skip_missing: leave out cells whose images or weights are not here.
        shard: the part of the cells that this job of several has to run.
        on_start: is given the plan and the number of workers before the first cell.
        on_event: is given every event of a cell.

    Returns:
        The suite's results; ``failures`` has the cells that failed in this call.

    Raises:
        CompatbenchError: broken input, missing images or weights, or a folder that cannot be
            written. What was measured before is kept.
    """
    from compatbench.engine.plan import make_plan
    from compatbench.engine.run import Compute, run_plan, take_shard

    out = Path(out)
    found = make_plan(
        suite,
        methods,
        tasks=tasks,
        seeds=seeds,
        shots=shots,
        transfers=transfers,
        out=out,
        precision=precision,
        shots_files=shots_files,
        skip_missing=skip_missing,
    )
    if not found.planned:
        raise CompatbenchError(
            f"nothing of suite '{found.suite.name}' can run here; see 'compatbench doctor "
            f"--suite {suite if isinstance(suite, str) else found.suite.name}'"
        )
    _check_folders(out)
    if shard is not None:
        found = take_shard(found, shard)
    failures = run_plan(found, compute or Compute(), on_start, on_event)
    _publish(found.reread(), out)
    return replace(results(found.suite, out), failures=failures)


def fit(
    method: str,
    task: str,
    source: str,
    *,
    shots: int = 16,
    seed: int = 1,
    config: Mapping[str, object] | None = None,
    views: int = 1,
    device: str = "auto",
) -> Module:
    """Fits one module; nothing is stored but image features in the cache.

    Args:
        method: a name of ``methods()``, or the path of a method file.
        task, source: names of ``tasks()`` and ``backbones()``, or MODEL/TAG of open_clip.
        shots: images of every class.
        config: settings that differ from the method's published recipe.
        views: augmented views of each training image; 1 is the plain view alone.

    Returns:
        The module, which knows how it was fitted (``module.about``) and can be given to
        ``evaluate``, or written with ``module.save(path, module.about)``.

    Raises:
        CompatbenchError: an unknown name, a wrong setting, or missing images or weights.
    """
    from compatbench.engine.single_fit import fit_module

    return fit_module(method, task, source, shots, seed, dict(config or {}), views, device)


def evaluate(
    module: Module | str | Path,
    backbone: str,
    task: str | None = None,
    *,
    transfer: str = "copied",
    methods: str | None = None,
    device: str = "auto",
) -> Evaluation:
    """A module on a backbone and on its source, beside zero-shot; nothing is trained.

    Args:
        module: of ``fit``, or the file of one, as ``run`` leaves it in ``runs/modules/``.
        backbone: the new model.
        task: the module's task by default, or a variant of it.
        transfer: how the module reaches the backbone, a name of ``transfers()``.
        methods: the method's file, if it is not among ``methods()``.

    Returns:
        Accuracies, zero-shot, gain, H, flips and a verdict; ``as_dict()`` has them by name.

    Raises:
        CompatbenchError: a damaged module, an unknown name, or a task that the module was not
            fitted for.
    """
    from compatbench.data.cache_files import default_cache_folder
    from compatbench.data.feature_cache import FeatureCache
    from compatbench.engine.evaluate import evaluate_module
    from compatbench.engine.execute.device import resolve_device
    from compatbench.method.registry import builtin_methods

    registry = builtin_methods()
    if methods is not None:
        registry.select(methods)
    module = Path(module) if isinstance(module, str) else module
    cache, where = FeatureCache(default_cache_folder()), resolve_device(device)
    return evaluate_module(module, backbone, task, registry, cache, where, transfer)


def results(suite: str | SuiteCard = "mini", out: str | Path = ".") -> Results:
    """The results of a suite in ``results/<suite>/``: frames, rankings and what is missing.

    Raises:
        CompatbenchError: an unknown suite, or a broken results file.
    """
    from compatbench.data.cards import suite_cards
    from compatbench.pages.suite_page import read_suite_page
    from compatbench.results.ranking_table import Results

    card = suite_cards.read(suite) if isinstance(suite, str) else suite
    page = read_suite_page(card, Path(out))
    return Results(page.results, page.expected)


def leaderboard(out: str | Path = ".", check: bool = False) -> list[Path]:
    """Writes ``leaderboard.md``, the report and its figures from ``results/``.

    Args:
        check: write nothing, and raise if a page is not what the results give.

    Returns:
        The pages.

    Raises:
        CompatbenchError: no results, a broken results file, or a page that is out of date.
    """
    from compatbench.pages.leaderboard import render_pages, write_pages

    out = Path(out)
    report(out, check=check)
    if not check:
        write_pages(out)
    pages = render_pages(out)
    for path, text in pages.items():
        if not path.is_file() or path.read_bytes() != text.encode():
            raise CompatbenchError(
                f"{path} is not what results/ gives; run 'compatbench leaderboard'"
            )
    return list(pages)


def report(out: str | Path = ".", check: bool = False) -> Report:
    """Writes ``results/report.html`` and its figures from ``results/``.

    Args:
        check: write nothing, and raise if a file is not what the results give.

    Returns:
        The page and the figures with their bytes, and which figures the results do not give.

    Raises:
        CompatbenchError: no results, a broken results file, or a file that is out of date.
    """
    from compatbench.pages.html_report import check_report, write_report

    return check_report(Path(out)) if check else write_report(Path(out))


def methods(names: Names = "all") -> pd.DataFrame:
    """The method adapters: name, title, depth, where they insert, paper, and the idea.

    Raises:
        CompatbenchError: an unknown name, or a method file that cannot be loaded.
    """
    from compatbench.engine.listing import list_methods

    return list_methods(names)


def tasks(names: Names = "all") -> pd.DataFrame:
    """The tasks and their variants: name, title, kind, classes, training and test images."""
    from compatbench.engine.listing import list_tasks

    return list_tasks(names)


def backbones(names: Names = "all") -> pd.DataFrame:
    """The backbones that have a card: name, title, architecture, lineage."""
    from compatbench.engine.listing import list_backbones

    return list_backbones(names)


def suites(names: Names = "all") -> pd.DataFrame:
    """The suites: name, title, upgrades, tasks, shots, seeds."""
    from compatbench.engine.listing import list_suites

    return list_suites(names)


def transfers() -> pd.DataFrame:
    """The ways of bringing a module to a backbone: name, what each needs, and what it does."""
    from compatbench.engine.listing import list_transfers

    return list_transfers()


def modules(methods: Names = "all", out: str | Path = ".") -> pd.DataFrame:
    """The modules in ``runs/``: method, task, source, shots, seed, file."""
    from compatbench.engine.listing import list_modules

    return list_modules(methods, Path(out))


def check_methods(
    methods: Names = "all",
    only: Names = "all",
    *,
    progress: Callable[[Outcome], object] = lambda outcome: None,
) -> pd.DataFrame:
    """Tries the rules that every method must keep, on small random models.

    A method takes seconds on one core. No data set and no weights are needed.

    Args:
        methods: names of ``methods()``, globs, exclusions (``!coop``), paths of method files,
            which are run as code.
        only: names, globs or exclusions of checks.
        progress: is given each outcome as soon as it is known.

    Returns:
        A row for each method and check: ``method``, ``check``, ``status`` (``pass``, ``fail`` or
        ``skip``), ``rule``, ``reason`` and ``seconds``. With ``methods="all"``, a file that
        cannot be loaded has a row that fails the check ``load``.

    Raises:
        CompatbenchError: an unknown method or check, a named file that cannot be loaded, or an
            empty selection.
    """
    from compatbench import conformance

    return conformance.check_methods(methods, only, progress=progress)


def audit_results(
    out: str | Path = ".",
    suites: Sequence[str] | None = None,
    *,
    cells: int = 5,
    seed: int | None = None,
    tolerance: int | None = None,
    zero_shot: bool = True,
    methods: str | None = None,
    shots_files: Sequence[Path] = (),
    device: str = "auto",
    progress: Callable[[str], object] = lambda line: None,
) -> Audit:
    """Finds out whether results are what this installation makes.

    Every file is read. Keys and data of every row are computed again, and all counts, costs,
    settings and pages must agree with each other. Then some cells are run again from nothing.
    Nothing is written but the feature cache.

    Args:
        out: the folder with ``results/``.
        suites: names, or paths of YAML files; by default all that the folder holds.
        cells: how many cells to run again, over all suites; 0 is allowed.
        seed: of the draw of these; by default a new one.
        tolerance: images that a count may differ by when it is computed again; by default none
            on the machine that made the results, 2 % of the test images on others.
        zero_shot: whether zero-shot counts are computed again.
        methods: files of methods that are not among ``methods()``, separated by commas; they are
            run as code.
        shots_files: few-shot draws that the results were trained on.
        progress: is given a line before each step.

    Returns:
        What was looked at and found: ``findings``, each with its file, line, field and both
        values (``to_frame()``), ``notes``, and the ``sample`` of cells that were run again.

    Raises:
        CompatbenchError: no results, an unknown or broken suite, or a cache that cannot be
            written.
    """
    from compatbench import audit
    from compatbench.engine.execute.device import resolve_device
    from compatbench.method.registry import builtin_methods

    registry = builtin_methods()
    if methods is not None:
        registry.select(methods)
    return audit.audit_results(
        out,
        suites,
        cells=cells,
        seed=seed,
        tolerance=tolerance,
        zero_shot=zero_shot,
        registry=registry,
        shots_files=shots_files,
        device=resolve_device(device),
        progress=progress,
    )


def check_pull_request(
    out: str | Path = ".",
    base: str | None = None,
    *,
    cells: int = 3,
    seed: int | None = None,
    zero_shot: bool = True,
    device: str = "auto",
    progress: Callable[[str], object] = lambda line: None,
) -> PullRequest:
    """Does all that is asked of a pull request.

    The changed methods are checked; all results are audited, and some cells of the changed
    methods are run again; every changed row is compared with the base's. The methods' code of
    the clone is run; neither a network nor a token is needed.

    Args:
        out: a folder of the clone, whose compatbench must be the one that is installed.
        base: a branch, tag or commit to compare with; by default what ``GITHUB_BASE_REF`` names
            on the remote ``origin``, then ``origin/main``, then ``main``.
        cells: how many cells of the changed methods to run again.
        seed: of the draw of these; by default a new one.
        zero_shot: whether zero-shot counts are computed again, if a method has changed.
        progress: is given a line before each step.

    Returns:
        ``problems``, each of which keeps the change from being merged, and ``summary``, a page
        in Markdown.

    Raises:
        CompatbenchError: the clone, its base or the installation cannot be used.
    """
    from compatbench.audit import pull_request
    from compatbench.engine.execute.device import resolve_device

    return pull_request.check_pull_request(
        out,
        base,
        cells=cells,
        seed=seed,
        zero_shot=zero_shot,
        device=resolve_device(device),
        progress=progress,
    )


def diagnose(
    suite: str | None = None,
    tasks: Names = (),
    backbones: Sequence[str] = (),
    *,
    out: str | Path = ".",
    verify: bool = False,
    device: str = "auto",
    progress: Callable[[str], object] = lambda name: None,
) -> Diagnosis:
    """Finds out whether a suite can run on this machine; nothing is fetched.

    Args:
        suite: look at all that a suite needs: its name or YAML file; by default ``mini``, if
            neither tasks nor backbones are given.
        tasks: look at the images of these, too: names or globs.
        backbones: look at these, too: names of ``backbones()``, MODEL/TAG of open_clip, or files.
        out: the folder that ``run`` would write to; the room on its disk is measured.
        verify: also measure zero-shot accuracy for every pair of a task and a backbone that are
            here, and compare it with published figures.
        device: where to measure.
        progress: is given the name of each part before it is looked at.

    Returns:
        ``ready``; a row for each task and backbone with its state and the fix (``to_frame()``);
        facts of the machine; and the comparisons with published figures.

    Raises:
        CompatbenchError: an unknown suite or task, a broken card, or an image that cannot be
            read.
    """
    from compatbench import doctor
    from compatbench.engine.execute.device import resolve_device

    return doctor.diagnose(
        suite,
        tasks,
        backbones,
        out=out,
        verify=verify,
        device=resolve_device(device) if verify else "cpu",
        progress=progress,
    )


def analyze_layers(
    source: str,
    target: str,
    *,
    suite: str | SuiteCard = "mini",
    tasks: Names | None = None,
    images: int = 256,
    seed: int = 1,
    device: str = "auto",
) -> LayersReport:
    """How far each layer of both towers has moved: its parameters and its features.

    Args:
        source, target: the old and the new model, names of ``backbones()``.
        tasks: whose class names and images are used; all of the suite by default.
        images: test images, drawn evenly from all tasks with ``seed``.

    Returns:
        A report: ``rows`` is a frame with a row per layer, ``tables()`` and ``draw()`` show it.

    Raises:
        CompatbenchError: an unknown name, or images or weights that are missing.
    """
    from compatbench.studies.layers import study_layers
    from compatbench.studies.study_setup import StudySetup

    return study_layers(StudySetup.make(source, target, suite, device), tasks, images, seed)


def analyze_depth(
    source: str,
    target: str,
    tasks: Names | None = None,
    *,
    suite: str | SuiteCard = "mini",
    shots: int | None = None,
    seeds: Sequence[int] | None = None,
    steps: int = 100,
    rates: Sequence[float] | None = None,
    out: str | Path = ".",
    jobs: int | None = None,
    device: str = "auto",
    watch: Watch | None = None,
) -> DepthReport:
    """Fits the same small module at each depth of the text tower, and copies it to the target.

    Finished fits are kept in ``runs/depth/`` and are not run again.

    Args:
        source, target: the old and the new model, names of ``backbones()``.
        tasks: with training images; all of the suite by default.
        shots, seeds: by default the suite's largest number of shots, and its seeds.
        steps: most optimiser steps of a fit.
        rates: learning rates, of which each fit chooses on its few-shot validation images.
        out: the folder of ``runs/``.
        jobs: worker processes; one per core by default, one on a GPU.
        watch: is given the cells and the number of workers, and returns a context manager
            that gives what is called with every event.

    Returns:
        A report: ``rows`` is a frame with a row per kind of module and depth.

    Raises:
        CompatbenchError: an unknown name, towers of different sizes, or a fit that failed.
    """
    from compatbench.studies.depth import study_depth
    from compatbench.studies.depth_probe import RATES
    from compatbench.studies.study_setup import StudySetup

    setup = StudySetup.make(source, target, suite, device, out, jobs, watch)
    return study_depth(setup, tasks, shots, seeds, steps, rates or RATES)


def analyze_embeddings(
    source: str,
    target: str,
    *,
    suite: str | SuiteCard = "mini",
    tasks: Names | None = None,
    out: str | Path = ".",
    device: str = "auto",
) -> EmbeddingsReport:
    """How the classes' embeddings have moved, and whether that predicts what methods lose.

    Args:
        source, target: the old and the new model, names of ``backbones()``.
        tasks: all of the suite by default.
        out: the folder of ``results/``, which the losses are read from.

    Returns:
        A report: ``geometry`` has the figures of each task, ``predictions`` the rank correlations
        of each figure with each method's losses; it is empty without complete results.

    Raises:
        CompatbenchError: an unknown name, a broken results file, or missing images or weights.
    """
    from compatbench.studies.embeddings import study_embeddings
    from compatbench.studies.study_setup import StudySetup

    return study_embeddings(StudySetup.make(source, target, suite, device, out), tasks)


def analyze_gauge(
    source: str,
    target: str,
    *,
    suite: str | SuiteCard = "mini",
    tasks: Names | None = None,
    device: str = "auto",
) -> GaugeReport:
    """How much of an upgrade is a rotation of the joint space, by words and by test images.

    Args:
        source, target: the old and the new model, names of ``backbones()``.
        tasks: whose test images are used; all of the suite by default.

    Returns:
        A report: ``maps`` has a row for each map between the two spaces.

    Raises:
        CompatbenchError: an unknown name, or images or weights that are missing.
    """
    from compatbench.studies.gauge import study_gauge
    from compatbench.studies.study_setup import StudySetup

    return study_gauge(StudySetup.make(source, target, suite, device), tasks)


def analyze_stress(
    source: str,
    target: str,
    methods: Names,
    *,
    suite: str | SuiteCard = "mini",
    tasks: Names | None = None,
    angles: Sequence[float | None] | None = None,
    turns: int = 3,
    sizes: Sequence[int] | None = None,
    words: bool = False,
    shots: int | None = None,
    seeds: Sequence[int] | None = None,
    out: str | Path = ".",
    jobs: int | None = None,
    device: str = "auto",
    watch: Watch | None = None,
) -> StressReport:
    """What modules are worth on a target whose joint space was rotated or made narrower.

    Modules are fitted on the source, unless ``runs/`` has them, and attached by ``copied`` and,
    where they act on features, by ``words``.

    Args:
        source, target: the old and the new model, names of ``backbones()``.
        angles: largest angles of the rotations, in degrees; None is any rotation.
        turns: random rotations of each angle.
        sizes: narrower joint spaces, in place of rotations.
        words: use parts of the word list, in place of rotations.
        shots, seeds, out, jobs, watch: as in ``analyze_depth``.

    Returns:
        A report: ``points`` has a row for each method, transfer and change.

    Raises:
        CompatbenchError: an unknown name, a size that is not smaller, or a fit that failed.
    """
    from compatbench.studies.stress_test import ANGLES, study_stress
    from compatbench.studies.study_setup import StudySetup

    setup = StudySetup.make(source, target, suite, device, out, jobs, watch)
    angles = ANGLES if angles is None else angles
    return study_stress(setup, methods, tasks, angles, turns, sizes, words, shots, seeds)


def analyze_claims(suite: str | SuiteCard = "mini", out: str | Path = ".") -> list[ClaimsReport]:
    """The founding paper's claims (arXiv:2412.20895), each tested against a suite's results.

    Args:
        out: the folder of ``results/``.

    Returns:
        One report for each upgrade: ``findings`` has the effect of each claim, its interval and
        the verdict.

    Raises:
        CompatbenchError: an unknown suite, no results of it, or a broken results file.
    """
    from compatbench.data.cards import suite_cards
    from compatbench.studies.claims import study_claims

    card = suite_cards.read(suite) if isinstance(suite, str) else suite
    return study_claims(card, Path(out))


def _check_folders(out: Path) -> None:
    """Finds out before the work, not after it, that results cannot be written or read.

    Raises:
        CompatbenchError: a folder cannot be written, or a results file is broken.
    """
    from tempfile import TemporaryFile

    from compatbench.results.store import read_results

    for folder in (out, out / "runs", out / RESULTS):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder) as probe:
                probe.write(b"probe")
        except OSError as error:
            raise CompatbenchError(f"cannot write {folder}: {error.strerror}") from None
    for folder in sorted(path for path in (out / RESULTS).iterdir() if path.is_dir()):
        read_results(folder)


def _publish(plan: Plan, out: Path) -> None:
    """Writes the results of a plan's cells, and the pages that show them."""
    from compatbench.engine.locks import publishing
    from compatbench.files.atomic import remove_remains
    from compatbench.pages.leaderboard import write_pages
    from compatbench.results.collect import collect_results

    suite = plan.suite
    with publishing(plan.store):
        for folder in (out, out / RESULTS / suite.name):
            remove_remains(folder)
        folder = out / RESULTS / suite.name
        collect_results(suite, plan.matrix.registry, plan.planned, folder, plan.draws)
        if suite.publish:
            if (out / RESULTS / "figures").is_dir():
                report(out)
            write_pages(out, suite)


def __getattr__(name: str) -> Any:
    # A record of settings, whose module imports PyTorch.
    if name == "Compute":
        from compatbench.engine.run import Compute

        return Compute
    raise AttributeError(f"module 'compatbench.api' has no attribute '{name}'")
