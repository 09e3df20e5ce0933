"""The options of ``compatbench analyze`` and ``claims``; heavy imports wait for a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from compatbench.data.cards import backbone_cards, suite_cards, task_cards

app = typer.Typer(
    no_args_is_help=True,
    help="Look into an upgrade: which layers have moved, at which depth a module survives, "
    "how the class embeddings have moved, and how far the joint space has only been turned.",
)
console = Console()


def _complete_backbones(incomplete: str) -> list[str]:
    return [name for name in backbone_cards.names() if name.startswith(incomplete)]


def _complete_suites(incomplete: str) -> list[str]:
    return [name for name in suite_cards.names() if name.startswith(incomplete)]


def _complete_tasks(incomplete: str) -> list[str]:
    return [name for name in task_cards.names() if name.startswith(incomplete)]


SourceArgument = Annotated[
    str,
    typer.Argument(
        help="The old model (see 'compatbench list backbones').",
        autocompletion=_complete_backbones,
        show_default=False,
    ),
]
TargetArgument = Annotated[
    str,
    typer.Argument(help="The new model.", autocompletion=_complete_backbones, show_default=False),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="Tasks whose class names and test images are used: names, globs, comma lists.",
        autocompletion=_complete_tasks,
        show_default="all of the suite",
    ),
]
SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite",
        help="Suite that gives tasks, shots, seeds and results: a name or a YAML file.",
        autocompletion=_complete_suites,
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", help="Folder of results/ and runs/.", file_okay=False)
]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, help="Worker processes.", show_default="one per core"),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, mps.")
]
StepsOption = Annotated[int, typer.Option("--steps", min=1, help="Most optimiser steps of a fit.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
FigureOption = Annotated[
    Path | None, typer.Option("--figure", help="Write the figure to this SVG file.")
]


@app.command()
def layers(
    source: SourceArgument,
    target: TargetArgument,
    task: TaskOption = None,
    suite: SuiteOption = "mini",
    images: Annotated[
        int, typer.Option("--images", min=4, help="Test images, evenly from all tasks.")
    ] = 256,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draw of images.")] = 1,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    figure: FigureOption = None,
) -> None:
    """Show how far each layer of both towers has moved: its parameters and its features.

    The change is the mean of |new - old|; the relative change is a share of the mean of |old|.
    CKA is 1 for features that are the same but for rotation and scale. Where shapes differ,
    CKA alone is given.
    """
    from compatbench.cli.analyses import Output, layers_report, show_layers

    output = Output.of(as_json, as_csv, figure)
    report = layers_report(source, target, task, suite, images, seed, device)
    show_layers(console, report, output)


@app.command()
def depth(
    source: SourceArgument,
    target: TargetArgument,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="Tasks to fit on: names, globs, comma lists.",
            autocompletion=_complete_tasks,
        ),
    ],
    suite: SuiteOption = "mini",
    shots: Annotated[
        int | None,
        typer.Option("--shots", min=1, help="Images per class.", show_default="the suite's most"),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="Seeds, such as '1,2'.", show_default="the suite's"),
    ] = None,
    steps: StepsOption = 100,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            min=1e-9,
            help="One learning rate for all depths.",
            show_default="chosen for each fit on its few-shot validation images",
        ),
    ] = None,
    out: OutOption = Path(),
    jobs: JobsOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    figure: FigureOption = None,
) -> None:
    """Fit the same small module at each depth of the text tower, and carry it over.

    A bias, and a low-rank map, are inserted before the first block, behind each block, and
    behind the last norm; each is fitted on the source and attached untouched to the target.
    Finished fits are kept, and not run again.
    """
    from compatbench.cli.analyses import Output, choose_own_tasks, show_depth
    from compatbench.cli.depth import run_depth
    from compatbench.cli.options import read_numbers

    output = Output.of(as_json, as_csv, figure)
    report = run_depth(
        Console(stderr=True),
        source=source,
        target=target,
        tasks=choose_own_tasks(task),
        suite=suite,
        shots=shots,
        seeds=read_numbers("--seeds", seeds, least=0),
        steps=steps,
        lr=lr,
        out=out,
        jobs=jobs,
        device=device,
    )
    show_depth(console, report, output)


@app.command()
def embeddings(
    source: SourceArgument,
    target: TargetArgument,
    task: TaskOption = None,
    suite: SuiteOption = "mini",
    out: OutOption = Path(),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print the figures of the tasks as CSV.")
    ] = False,
    figure: FigureOption = None,
) -> None:
    """Show how the classes' embeddings have moved, and whether that tells what methods lose.

    The loss of a method on a task is its gain over zero-shot on the source minus that on the
    target; it is correlated, by rank over tasks, with each figure.
    """
    from compatbench.cli.analyses import (
        Output,
        embeddings_report,
        results_folder,
        show_embeddings,
    )

    output = Output.of(as_json, as_csv, figure)
    report = embeddings_report(source, target, task, suite, out, device)
    show_embeddings(console, report, output, results_folder(out, suite))


@app.command()
def page(
    path: Annotated[Path, typer.Argument(help="A Markdown file with marks.", show_default=False)],
    suite: SuiteOption = "mini",
    task: Annotated[
        str,
        typer.Option("--task", help="Tasks of the depth analysis.", autocompletion=_complete_tasks),
    ] = "mini-food,mini-weather",
    only: Annotated[
        str, typer.Option("--only", help="Sections to write: names, globs, comma lists.")
    ] = "all",
    steps: StepsOption = 100,
    out: OutOption = Path(),
    jobs: JobsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Write tables and figures between the marks of a page, for the suite's first upgrade.

    The marks are '<!-- layers:begin -->' and '<!-- layers:end -->', and so for depth,
    embeddings and claims, and for gauge, turned, sizes and aligned, which look at all of the
    suite's upgrades; figures go into a folder beside the page, with its name.
    """
    from compatbench.cli.analysis_page import page_command

    page_command(
        console,
        path=path,
        suite=suite,
        task=task,
        only=only,
        steps=steps,
        out=out,
        jobs=jobs,
        device=device,
    )


def claims(
    suite: SuiteOption = "mini",
    out: OutOption = Path(),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Hold the founding paper's claims against results: supported, contradicted or undecided.

    Each claim comes with the data that bears on it, the size of the effect, and a bootstrap
    interval over datasets, by which the verdict goes. A missing cell gives no mean.
    """
    from compatbench.cli.claims import claims_command

    claims_command(console, suite=suite, out=out, as_markdown=markdown, as_json=as_json)
