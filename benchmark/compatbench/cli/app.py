"""The commands and their options. Heavy imports wait until a command needs them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import compatbench
from compatbench.cards import backbone_cards, suite_cards, task_cards
from compatbench.cli.analyze import app as analyze_app
from compatbench.cli.analyze import claims
from compatbench.cli.cache import app as cache_app
from compatbench.cli.sizes import parse_bytes
from compatbench.errors import CompatbenchError
from compatbench.folders import method_files

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
app.add_typer(cache_app, name="cache")
console = Console()


class Kind(str, Enum):
    """What ``list`` can show."""

    methods = "methods"
    tasks = "tasks"
    backbones = "backbones"
    suites = "suites"
    modules = "modules"


class Precision(str, Enum):
    """What frozen towers can compute in."""

    fp32 = "fp32"
    bf16 = "bf16"


def _complete_methods(incomplete: str) -> list[str]:
    names = sorted(path.stem for path in method_files())
    return [name for name in ["all", *names] if name.startswith(incomplete)]


def _complete_suites(incomplete: str) -> list[str]:
    return [name for name in suite_cards.names() if name.startswith(incomplete)]


def _complete_tasks(incomplete: str) -> list[str]:
    return [name for name in ["all", *task_cards.names()] if name.startswith(incomplete)]


def _complete_backbones(incomplete: str) -> list[str]:
    return [name for name in backbone_cards.names() if name.startswith(incomplete)]


def _complete_any(context: typer.Context, incomplete: str) -> list[str]:
    names = {
        "tasks": task_cards.names,
        "backbones": backbone_cards.names,
        "suites": suite_cards.names,
    }.get(str(context.params.get("kind")), lambda: _complete_methods(""))()
    return [name for name in names if name.startswith(incomplete)]


SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite",
        help="Suite to run: a name (see 'compatbench list suites') or a YAML file.",
        autocompletion=_complete_suites,
    ),
]
MethodsOption = Annotated[
    str,
    typer.Option(
        "--methods",
        help="Methods: names, globs, 'all', comma lists, exclusions ('all,!coop'), or the path "
        "of a method file ('./mine.py'), which is run as code.",
        autocompletion=_complete_methods,
    ),
]
TasksOption = Annotated[
    str,
    typer.Option(
        "--tasks",
        help="Tasks of the suite: names, globs, 'all', comma lists, exclusions.",
        autocompletion=_complete_tasks,
    ),
]
SeedsOption = Annotated[
    str | None,
    typer.Option("--seeds", help="Seeds, such as '1,2'.", show_default="the suite's"),
]
ShotsOption = Annotated[
    str | None,
    typer.Option("--shots", help="Shots, such as '4,8'.", show_default="the suite's"),
]
OutOption = Annotated[
    Path,
    typer.Option("--out", help="Folder for runs/, results/ and leaderboard.md.", file_okay=False),
]


DeviceOption = Annotated[
    str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, mps.")
]


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


@app.command()
def run(
    suite: SuiteOption = "mini",
    methods: MethodsOption = "all",
    tasks: TasksOption = "all",
    seeds: SeedsOption = None,
    shots: ShotsOption = None,
    out: OutOption = Path(),
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Worker processes.",
            show_default="one per core; 1 on a GPU",
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each worker.")] = 1,
    device: DeviceOption = "auto",
    memory_budget: Annotated[
        str | None,
        typer.Option(
            "--memory-budget",
            help="Most memory for the activations of each worker's text encoder, such as '2G'. "
            "Less is slower, never different.",
            show_default="half of what is free",
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--precision",
            help="What the frozen towers compute in; modules are trained in float32 always. "
            "Another precision is another set of cells, in place of the first in results/.",
            show_default="the suite's",
        ),
    ] = None,
) -> None:
    """Run a suite and write results/ and leaderboard.md.

    Finished cells are never run again: stop at any time, and the same command goes on.
    """
    from compatbench.cli.run import run_command

    run_command(
        console,
        suite=suite,
        methods=methods,
        tasks=tasks,
        seeds=_numbers("--seeds", seeds, least=0),
        shots=_numbers("--shots", shots, least=1),
        out=out,
        jobs=jobs,
        threads=threads,
        device=device,
        precision=precision.value if precision else None,
        memory_budget=None if memory_budget is None else parse_bytes(memory_budget),
    )


@app.command()
def plan(
    suite: SuiteOption = "mini",
    methods: MethodsOption = "all",
    tasks: TasksOption = "all",
    seeds: SeedsOption = None,
    shots: ShotsOption = None,
    out: OutOption = Path(),
) -> None:
    """Show what 'run' would do: cells to do, done and failed, and the time it takes."""
    from compatbench.cli.run import plan_command

    plan_command(
        console,
        suite=suite,
        methods=methods,
        tasks=tasks,
        seeds=_numbers("--seeds", seeds, least=0),
        shots=_numbers("--shots", shots, least=1),
        out=out,
    )


@app.command()
def check(
    methods: Annotated[
        str,
        typer.Argument(
            metavar="METHODS",
            help="What to check: a name, a glob, 'all', a comma list with exclusions, or the path "
            "of a method file ('./mine.py'), which is run as code.",
            autocompletion=_complete_methods,
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
        typer.Option("--backbone", help="The new model.", autocompletion=_complete_backbones),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="The test set: the module's task or a variant of it.",
            show_default="the module's task",
            autocompletion=_complete_tasks,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="The method's file, if it is not among 'list methods'."),
    ] = None,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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
    """Make leaderboard.md again from results/, byte for byte."""
    from compatbench.cli.board import leaderboard_command

    leaderboard_command(console, out=out, check=check)


def _numbers(option: str, text: str | None, least: int) -> tuple[int, ...] | None:
    """A comma list of numbers from the command line."""
    if text is None:
        return None
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",") if part.strip()))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise CompatbenchError(
            f"{option} '{text}': give numbers of at least {least}, separated by commas"
        )
    return numbers
