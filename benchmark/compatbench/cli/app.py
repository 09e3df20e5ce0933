"""The commands and their options. Heavy imports wait until a command needs them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import compatbench
from compatbench.cli.analyze import app as analyze_app
from compatbench.cli.analyze import claims
from compatbench.cli.audit import audit
from compatbench.cli.cache import app as cache_app
from compatbench.cli.ci import ci
from compatbench.cli.data import app as data_app
from compatbench.cli.options import (
    DataRootOption,
    DeviceOption,
    OfflineOption,
    OutOption,
    TrustPickleOption,
    complete_backbones,
    complete_methods,
    complete_tasks,
)
from compatbench.cli.report import report
from compatbench.cli.runs import app as runs_app
from compatbench.cli.suite_commands import doctor, plan, run
from compatbench.data.cards import backbone_cards, suite_cards, task_cards

app = typer.Typer(
    name="compatbench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?\n\n"
        "A module is trained once on a source backbone, attached untouched to the upgraded "
        "one, and ranked by the harmonic mean of both accuracies.\n\n"
        "Start with: compatbench run --methods all"
    ),
)
app.add_typer(analyze_app, name="analyze")
app.command("claims")(claims)
app.command("report")(report)
app.add_typer(cache_app, name="cache")
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")
console = Console()


class Kind(str, Enum):
    """What ``list`` can show."""

    methods = "methods"
    tasks = "tasks"
    backbones = "backbones"
    suites = "suites"
    modules = "modules"


def _complete_any(context: typer.Context, incomplete: str) -> list[str]:
    names = {
        "tasks": task_cards.names,
        "backbones": backbone_cards.names,
        "suites": suite_cards.names,
    }.get(str(context.params.get("kind")), lambda: complete_methods(""))()
    return [name for name in names if name.startswith(incomplete)]


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"compatbench {compatbench.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


app.command()(run)
app.command()(plan)
app.command()(doctor)
app.command()(audit)
app.command()(ci)


@app.command()
def check(
    methods: Annotated[
        str,
        typer.Argument(
            metavar="METHODS",
            help="What to check: a name, a glob, 'all', a comma list with exclusions, or the path "
            "of a method file ('./mine.py'), which is run as code.",
            autocompletion=complete_methods,
        ),
    ],
    only: Annotated[
        str, typer.Option("--only", help="Checks to try: names, globs, exclusions.")
    ] = "all",
) -> None:
    """Check that a method keeps the rules, on tiny synthetic models; exit with 1 if not.

    Fits are cut to a few steps, so that a method takes seconds on one core.
    """
    from compatbench.cli.check import check_command

    check_command(console, methods=methods, only=only)


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="Such as 'my_method'.", show_default=False)],
) -> None:
    """Write a commented method file that works as it is, to be made into yours."""
    from compatbench.cli.new_method import new_method_command

    new_method_command(console, name=name)


@app.command()
def evaluate(
    module: Annotated[Path, typer.Argument(help="A module that 'run' has left in runs/modules/.")],
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            help="The new model: a name of 'list backbones', or MODEL/TAG of open_clip, "
            "MODEL@FILE, local-dir:FOLDER, hf:FOLDER.",
            autocompletion=complete_backbones,
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="The test set: the module's task or a variant of it.",
            show_default="the module's task",
            autocompletion=complete_tasks,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="The method's file, if it is not among 'list methods'; it is run as code.",
        ),
    ] = None,
    aligned: Annotated[
        bool,
        typer.Option(
            "--aligned",
            help="Turn the module into the new model's joint space, found from words alone. With "
            "the words-*.safetensors that 'run' leaves beside aligned modules, the source model "
            "is not needed.",
        ),
    ] = False,
    data_root: DataRootOption = None,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    offline: OfflineOption = False,
    trust_pickle: TrustPickleOption = False,
) -> None:
    """Tell whether a saved module survives a new model; nothing is trained.

    Shows its accuracy there and on its source, each beside zero-shot, and the share of images
    that were right before and are wrong now.
    """
    from compatbench.cli.evaluate import evaluate_command

    evaluate_command(
        console,
        module=module,
        backbone=backbone,
        task=task,
        methods=methods,
        device=device,
        aligned=aligned,
        as_json=as_json,
    )


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    names: Annotated[
        str,
        typer.Argument(help="Names, globs, comma lists.", autocompletion=_complete_any),
    ] = "all",
    markdown: Annotated[
        bool,
        typer.Option("--markdown", help="Methods as the capability table docs/methods.md."),
    ] = False,
    out: OutOption = Path(),
) -> None:
    """List methods, tasks, backbones, suites or the modules in runs/."""
    from compatbench.cli.show import show, show_markdown

    if markdown:
        show_markdown(kind.value, names)
    else:
        show(console, kind.value, names, out)


@app.command()
def leaderboard(
    out: OutOption = Path(),
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; fail if leaderboard.md is not up to date."),
    ] = False,
) -> None:
    """Make leaderboard.md and its pictures again from results/, byte for byte.

    The pictures and the page of all results are those of 'compatbench report'.
    """
    from compatbench.cli.board import leaderboard_command

    leaderboard_command(console, out=out, check=check)
