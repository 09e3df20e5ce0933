"""``compatbench audit``: are the results what this checkout makes?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from compatbench.cli.options import (
    DataRootOption,
    DeviceOption,
    OfflineOption,
    OutOption,
    ShotsFileOption,
    TrustPickleOption,
    complete_suites,
)

console = Console(soft_wrap=True, highlight=False)
SampleSeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, help="Seed of the draw.", show_default="a new one, which is printed"
    ),
]


def audit(
    out: OutOption = Path(),
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
    seed: SampleSeedOption = None,
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
    from compatbench import api
    from compatbench.audit import summarise

    found = api.audit_results(
        out,
        suite,
        cells=cells,
        seed=seed,
        tolerance=tolerance,
        zero_shot=zero_shot,
        methods=methods,
        shots_files=shots_file or (),
        device=device,
        progress=(lambda _: None)
        if as_json
        else lambda line: console.print(line, style="dim", markup=False),
    )
    if as_json:
        # Not through the console, which would wrap and colour it.
        print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
    else:
        for line in summarise(found.findings):
            console.print(f"[bold red]wrong[/] {escape(line)}")
        for note in found.notes:
            console.print(f"[yellow]note[/] {escape(note)}")
        console.print(
            f"suites: {len(found.suites)}, method files: {found.methods}, rows: {found.rows:,}; "
            f"cells run again: {len(found.sample)} (--seed {found.seed}); "
            f"findings: {len(found.findings)}"
        )
    if found.findings:
        raise typer.Exit(1)
