"""``compatbench audit``: are the results what this checkout makes?"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from compatbench.cli.options import (
    DataRootOption,
    DeviceOption,
    OfflineOption,
    ShotsFileOption,
    TrustPickleOption,
    complete_suites,
)

console = Console()


def audit(
    results: Annotated[
        Path,
        typer.Argument(metavar="RESULTS_DIR", help="The folder results/.", show_default=True),
    ] = Path("results"),
    suite: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            help="Suite to look at: a name, or the YAML file of one that is not installed; may be "
            "repeated.",
            show_default="every folder",
            autocompletion=complete_suites,
        ),
    ] = None,
    cells: Annotated[
        int, typer.Option("--cells", min=0, help="Cells to run again, drawn at random.")
    ] = 5,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, help="Seed of the draw.", show_default="a new one, which is printed"
        ),
    ] = None,
    tolerance: Annotated[
        int | None,
        typer.Option(
            "--tolerance",
            min=0,
            help="Images by which a count may differ when it is computed again.",
            show_default="none on the machine that made it, 2 % of the images elsewhere",
        ),
    ] = None,
    zero_shot: Annotated[
        bool,
        typer.Option(
            "--zero-shot/--no-zero-shot",
            help="Compute zero-shot again: quick, where the images' features are cached.",
        ),
    ] = True,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="Files of methods that are not among 'list methods' ('./mine.py'), which are run "
            "as code.",
        ),
    ] = None,
    shots_file: ShotsFileOption = None,
    data_root: DataRootOption = None,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    offline: OfflineOption = False,
    trust_pickle: TrustPickleOption = False,
) -> None:
    """Tell whether results are what this checkout makes; exit with 1 if a number is not.

    Every file is read; every row's key and data are computed again from the method's code, its
    settings, the weights and the images; totals, zero-shot, flips, costs, settings and
    leaderboard.md must agree with each other and with what is computed here. Then some cells
    are run again from nothing. A number that is forged or stale is named with its file, line
    and field. Nothing is written but the feature cache.
    """
    if seed is None:
        seed = secrets.randbelow(1_000_000)
    audit_command(
        console,
        results=results,
        suites=suite,
        cells=cells,
        seed=seed,
        tolerance=tolerance,
        zero_shot=zero_shot,
        methods=methods,
        shots_files=shots_file or (),
        device=device,
        as_json=as_json,
    )


def audit_command(
    console: Console,
    *,
    results: Path,
    suites: Sequence[str] | None,
    cells: int,
    seed: int,
    tolerance: int | None,
    zero_shot: bool,
    methods: str | None,
    shots_files: Sequence[Path],
    device: str,
    as_json: bool,
) -> None:
    """Prints what an audit finds.

    Raises:
        CompatbenchError: no results, or a suite that is not known.
        typer.Exit: with 1, if something was found.
    """
    from compatbench.audit import Options, audit_results, summarise
    from compatbench.audit.suites import find_suites
    from compatbench.data.cache_files import default_cache_folder
    from compatbench.data.draws import read_draws
    from compatbench.engine.execute.device import resolve_device
    from compatbench.method.registry import builtin_methods

    registry = builtin_methods()
    if methods is not None:
        registry.select(methods)
    cards, unknown = find_suites(results, suites)
    options = Options(
        cells=cells,
        seed=seed,
        cache=default_cache_folder(),
        device=resolve_device(device),
        tolerance=tolerance,
        zero_shot=zero_shot,
        shots_files=read_draws(shots_files),
    )

    def say(line: str) -> None:
        if not as_json:
            console.print(f"[dim]{escape(line)}[/]", highlight=False, soft_wrap=True)

    found = audit_results(results, cards, registry, options, say)
    found.findings[:0] = unknown
    if as_json:
        # Not through the console, which would wrap and colour it.
        about = {
            "results": str(results),
            "suites": [card.name for card in cards],
            "methods": found.methods,
            "rows": found.rows,
            "seed": seed,
            "sample": [
                {
                    "suite": suite,
                    "method": one.cell.name,
                    "task": one.cell.task,
                    "source": one.cell.source,
                    "shots": one.cell.shots,
                    "seed": one.cell.seed,
                    "key": one.cell.key,
                    "part": one.stratum,
                    "of": one.strata,
                }
                for suite, one in found.sampled
            ],
            "notes": found.notes,
            "findings": [finding.as_json() for finding in found.findings],
        }
        print(json.dumps(about, indent=1, ensure_ascii=False))
    else:
        for line in summarise(found.findings):
            console.print(f"[bold red]wrong[/] {escape(line)}", highlight=False, soft_wrap=True)
        for note in found.notes:
            console.print(f"[yellow]note[/] {escape(note)}", highlight=False, soft_wrap=True)
        console.print(
            f"suites: {len(cards)}, method files: {found.methods}, rows: {found.rows:,}; "
            f"cells run again: {len(found.sampled)} (--seed {seed}); "
            f"findings: {len(found.findings)}",
            highlight=False,
            soft_wrap=True,
        )
    if found.findings:
        raise typer.Exit(1)
