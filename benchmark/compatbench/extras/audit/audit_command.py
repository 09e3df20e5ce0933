"""``compatbench maintain audit``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from compatbench.cli.completion import complete_methods, complete_suites
from compatbench.cli.groups import maintain
from compatbench.cli.output import print_json, say
from compatbench.cli.shared_options import AsJson, Cards, DataRoot, Offline, TrustPickle, split


@maintain.command("audit")
def audit(
    out: Annotated[
        Path, typer.Option(help="The folder with 'results/', as 'run' takes it.")
    ] = Path(),
    suites: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="Suite to audit: a name, or the YAML file of one that is not installed; may be "
            "repeated. By default every folder.",
            autocompletion=complete_suites,
        ),
    ] = None,
    cells: Annotated[
        int,
        typer.Option(min=0, help="How many cells to run again, drawn at random from all suites."),
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 1,
    rerun: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Draw from the cells of this method only; may be repeated, or a comma list.",
            autocompletion=complete_methods,
        ),
    ] = None,
    cold: Annotated[
        bool,
        typer.Option("--cold", help="Encode images again, into a cache that is thrown away."),
    ] = False,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Files of methods that are not in 'list methods', separated by commas; they are "
            "run as code.",
            autocompletion=complete_methods,
        ),
    ] = None,
    unverified: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Suite whose rows may stay unchecked where its weights or images are not here; "
            "may be repeated.",
            autocompletion=complete_suites,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute.")] = "auto",
    cards: Cards = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
    offline: Offline = False,
    trust_pickle: TrustPickle = False,
) -> None:
    """Find out whether results are what this installation makes.

    Every file is read. Keys and data of every row are computed again, and settings and pages are
    compared with those that the code gives. A method, seed or cell that a suite asks for must be
    there. Predictions that are in the folder's 'runs/' are scored again. Then some cells are run
    again from nothing, as 'run' does. Results that were made by these versions on this kind of
    processor have to be equal, value by value; others may differ as much as processors do. Nothing
    is written except the feature cache.

    The last line says what was not run again. Exits with 1 if anything is found.
    """
    import compatbench
    from compatbench.extras.audit.findings import summarise

    def show_progress(line: str) -> None:
        if not as_json:
            say(escape(line), style="dim")

    audited = compatbench.audit_results(
        out,
        suites,
        cells=cells,
        seed=seed,
        rerun=split(rerun) or None,
        cold=cold,
        methods=methods,
        unverified=unverified or (),
        device=device,
        progress=show_progress,
    )
    if as_json:
        print_json(audited)
    else:
        for line in summarise(audited.findings):
            say(f"[bold red]wrong[/] {escape(line)}")
        for note in audited.notes:
            say(f"[yellow]note[/] {escape(note)}")
        say(
            f"suites: {len(audited.suites)}, method files: {audited.methods}, rows: "
            f"{audited.rows:,}; scored again: {audited.scored:,}; run again: {len(audited.cells)} "
            f"cells (--seed {audited.seed}); findings: {len(audited.findings)}"
        )
        say(escape(audited.describe_remainder()))
    if audited.findings:
        raise typer.Exit(1)
