"""Whether methods, results, a change and this machine are as they should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from compatbench.audit import Audit
    from compatbench.audit.pull_request import PullRequest
    from compatbench.conformance import Outcome
    from compatbench.doctor import Diagnosis

Names = str | Sequence[str]


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
