"""``list``, ``report`` and ``store data``: list names, make pages again, fetch data."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from compatbench.cli.completion import (
    complete_backbones,
    complete_listed,
    complete_suites,
    complete_tasks,
)
from compatbench.cli.groups import READERS, app, data
from compatbench.cli.output import (
    MARKS,
    print_facts,
    print_frame,
    print_json,
    say,
    show,
    status_line,
)
from compatbench.cli.shared_options import AsJson, Cards, DataRoot, Out

NARROW = {  # columns in the order in which a narrow terminal leaves them out
    "methods": ("idea", "paper"),
    "backbones": ("architecture",),
    "suites": ("title",),
    "transfers": ("paper", "title", "takes", "settings"),
}


@app.command("list", rich_help_panel=READERS)
def list_names(
    kind: Annotated[
        Literal["methods", "tasks", "backbones", "suites", "transfers", "modules"],
        typer.Argument(help="What to list."),
    ],
    names: Annotated[
        str, typer.Argument(help="Names, globs, comma lists.", autocompletion=complete_listed)
    ] = "all",
    out: Out = Path(),
    as_json: AsJson = False,
    cards: Cards = None,
) -> None:
    """List methods, tasks, backbones, suites, transfers or the modules in runs/.

    A wide terminal shows papers and ideas of the methods, too.
    """
    if kind in ("methods", "transfers"):
        from compatbench.engine.request import check_names

        if kind == "methods":
            check_names(methods=names)
        else:
            check_names(transfers=names)
    import compatbench

    if kind == "modules":
        frame = compatbench.modules(names, out)
    else:
        frame = getattr(compatbench, kind)(names)
    if as_json:
        print_json(frame)
        return
    if kind != "modules":
        print_frame(frame, narrow=NARROW.get(kind, ()))
        return
    # The beginnings of keys: a whole path is too long.
    files = [Path(file) for file in frame["file"]]
    keys = [file.stem[:12] for file in files]
    print_frame(frame.drop(columns="file").assign(key=keys))
    last = files[-1]
    example = last.parents[1] / "*" / f"{last.stem[:12]}*.safetensors"
    say(escape(f"the file of the last, for example: {example}"))


@app.command("report", rich_help_panel=READERS)
def report(
    out: Out = Path(),
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing, and fail if a page, a file of the site or a figure is not, byte "
            "for byte, what is made here.",
        ),
    ] = False,
) -> None:
    """Write the leaderboard, the pages and the site of all results from 'results/'.

    'leaderboard.md' has the verdicts and rankings, 'results/<suite>/README.md' the rows of a suite,
    and the site 'results/report/' everything. A clone also has a page for each method. Nothing is
    trained, and the same results give the same bytes. A figure without results is left out, and so
    is the leaderboard if no suite here is published.

    Open results/report/index.html in a browser, or put the folder on any server; it makes no
    request outside of it.
    """
    import compatbench

    show(compatbench.report(out, check))


@data.command("fetch")
def fetch_data(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Names or globs.", autocompletion=complete_tasks),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Fetch all that a suite needs, variants included.", autocompletion=complete_suites
        ),
    ] = None,
    agree: Annotated[
        bool, typer.Option("--agree", help="Agree to the licences that ask for it.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep archives that were unpacked.")] = False,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Download datasets into the folders in which their cards look for them.

    Complete files are skipped, and interrupted downloads are resumed. A file is checked against the
    hash that is published, or else against 'downloads.json' in the dataset's folder, which the
    first download writes. Archives are unpacked beside their place and then renamed.

    Exits with 1 if something is still missing, and shows for each file what to do.
    """
    from compatbench.engine.request import check_names

    check_names(suite)
    import compatbench

    with status_line() as progress:
        fetched = compatbench.fetch_data(
            tasks or (),
            suite,
            agree=agree,
            keep=keep,
            tell=lambda line: say(escape(line)),
            progress=progress,
        )
    for dataset in fetched:
        report = dataset.report
        say(f"{MARKS[report.state]} [bold]{escape(dataset.task)}[/] ")
        facts = {
            "fetched": ", ".join(dataset.files),
            "folder": report.folder,
            "images": report.found,
            "message": report.message,
        }
        if not dataset.ready and not dataset.problems:
            facts["fix"] = report.fix
        print_facts(facts)
        if not dataset.ready:
            for problem in dataset.problems:
                say(f"  [red]problem[/]: {escape(problem)}")
    if not all(dataset.ready for dataset in fetched):
        raise typer.Exit(1)


@data.command("weights")
def fetch_backbones(
    backbones: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Names of cards, globs or comma lists of these, or 'MODEL/TAG'.",
            autocompletion=complete_backbones,
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Fetch the weights of all upgrades of a suite.", autocompletion=complete_suites
        ),
    ] = None,
    cards: Cards = None,
) -> None:
    """Download the weights of backbones that are not on this machine, and check all of them.

    Exits with 1 if something could not be fetched, and shows what to do.
    """
    from compatbench.engine.request import check_names

    check_names(suite, backbones=backbones or ())
    import compatbench

    with status_line() as progress:
        fetched = compatbench.fetch_backbones(backbones or (), suite, progress=progress)
    for weights in fetched:
        mark = MARKS["found"] if weights.file else MARKS["missing"]
        say(f"{mark} [bold]{escape(weights.name)}[/] ")
        facts = {"file": weights.file, "licence": weights.licence, "problem": weights.problem}
        print_facts(facts)
    if not all(weights.file for weights in fetched):
        raise typer.Exit(1)
