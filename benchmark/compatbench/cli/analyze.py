"""``compatbench analyze`` and ``claims``. Heavy imports wait until a command needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from compatbench import api
from compatbench.cli.options import (
    DeviceOption,
    OutOption,
    SeedsOption,
    SuiteOption,
    complete_backbones,
    complete_methods,
    complete_tasks,
    read_numbers,
)
from compatbench.cli.study_output import (
    check_output,
    console,
    print_json,
    print_tables,
    say,
    show_report,
)
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.engine.cell import Cell
    from compatbench.engine.execute.executors import OnEvent

app = typer.Typer(
    no_args_is_help=True,
    help="Look into an upgrade: which layers have moved, at which depth a module survives, "
    "how the class embeddings have moved, and how far the joint space has only been turned.",
)

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="The old model (see 'compatbench list backbones').",
        autocompletion=complete_backbones,
        show_default=False,
    ),
]
TargetArgument = Annotated[
    str,
    typer.Argument(help="The new model.", autocompletion=complete_backbones, show_default=False),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        help="Tasks whose class names and images are used: names, globs, comma lists.",
        autocompletion=complete_tasks,
        show_default="all of the suite",
    ),
]
ShotsOption = Annotated[
    int | None, typer.Option(min=1, help="Images per class.", show_default="the suite's most")
]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, help="Worker processes.", show_default="one per core"),
]
StepsOption = Annotated[int, typer.Option(min=1, help="Most optimiser steps of a fit.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
FigureOption = Annotated[Path | None, typer.Option(help="Write the figure to this SVG file.")]


@app.command()
def layers(
    source: SourceArgument,
    target: TargetArgument,
    task: TaskOption = None,
    suite: SuiteOption = "mini",
    images: Annotated[int, typer.Option(min=4, help="Test images, evenly from all tasks.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of images.")] = 1,
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
    check_output(as_json, as_csv, figure)
    report = api.analyze_layers(
        source, target, suite=suite, tasks=task, images=images, seed=seed, device=device
    )
    show_report(report, as_json, as_csv, figure)


@app.command()
def depth(
    source: SourceArgument,
    target: TargetArgument,
    task: TaskOption,
    suite: SuiteOption = "mini",
    shots: ShotsOption = None,
    seeds: SeedsOption = None,
    steps: StepsOption = 100,
    lr: Annotated[
        float | None,
        typer.Option(
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
    check_output(as_json, as_csv, figure)
    report = api.analyze_depth(
        source,
        target,
        task,
        suite=suite,
        shots=shots,
        seeds=read_numbers("--seeds", seeds, least=0),
        steps=steps,
        rates=None if lr is None else (lr,),
        out=out,
        jobs=jobs,
        device=device,
        watch=_watch,
    )
    show_report(report, as_json, as_csv, figure)


@app.command()
def embeddings(
    source: SourceArgument,
    target: TargetArgument,
    task: TaskOption = None,
    suite: SuiteOption = "mini",
    out: OutOption = Path(),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    figure: FigureOption = None,
) -> None:
    """Show how the classes' embeddings have moved, and whether that predicts what methods lose.

    The loss of a method on a task is its gain over zero-shot on the source minus that on the
    target; it is correlated, by rank over tasks, with each figure. CSV has the figures of the
    tasks, JSON all.
    """
    check_output(as_json, as_csv, figure)
    report = api.analyze_embeddings(source, target, suite=suite, tasks=task, out=out, device=device)
    show_report(report, as_json, as_csv, figure, report)
    if report.predictions.empty and not as_json and not as_csv:
        folder = out / "results" / suite
        say(f"{folder} holds no complete method for this upgrade, so losses are left out")


@app.command()
def gauge(
    source: SourceArgument,
    target: TargetArgument,
    task: TaskOption = None,
    suite: SuiteOption = "mini",
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods for the stress test: names, globs, comma lists.",
            show_default="no stress test",
            autocompletion=complete_methods,
        ),
    ] = None,
    angles: Annotated[
        str,
        typer.Option(
            help="Largest angles of the turns in degrees, 0 to 180; 'random' is any rotation.",
        ),
    ] = "0,45,90,135,180,random",
    turns: Annotated[int, typer.Option(min=1, help="Random turns of each angle.")] = 3,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Instead of turning it, make the target's joint space so narrow, such as '32,64'.",
            show_default="turns",
        ),
    ] = None,
    words: Annotated[
        bool,
        typer.Option("--words", help="Instead of turning the target, use parts of the word list."),
    ] = False,
    shots: ShotsOption = None,
    seeds: SeedsOption = None,
    out: OutOption = Path(),
    jobs: JobsOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    figure: FigureOption = None,
) -> None:
    """Show how much of an upgrade is a turn of the joint space, and what a turn alone does.

    The turn is found from a list of words, and once from test images, to see whether these
    agree. With --methods, their modules are fitted on the source, unless runs/ has them, and
    attached to the target while its joint space is turned by growing angles: copied, and, where
    they act on features, through words. The target's zero-shot answers stay what they are.
    """
    check_output(as_json, as_csv, figure)
    read_angles, read_sizes = _angles(angles), read_numbers("--sizes", sizes, least=1)
    read_seeds = read_numbers("--seeds", seeds, least=0)
    if figure is not None and methods is None:
        raise CompatbenchError("--figure shows the stress test; give --methods, too")
    if read_sizes and words:
        raise CompatbenchError("--sizes and --words: give one of the two")
    report = api.analyze_gauge(source, target, suite=suite, tasks=task, device=device)
    if methods is None:
        show_report(report, as_json, as_csv, figure, {"gauge": report, "stress": []})
        return
    stress = api.analyze_stress(
        source,
        target,
        methods,
        suite=suite,
        tasks=task,
        angles=read_angles,
        turns=turns,
        sizes=read_sizes,
        words=words,
        shots=shots,
        seeds=read_seeds,
        out=out,
        jobs=jobs,
        device=device,
        watch=_watch,
    )
    if not as_json and not as_csv:
        print_tables(report.tables())
        console.print()
    show_report(stress, as_json, as_csv, figure, {"gauge": report, "stress": stress.points})


@app.command()
def page(
    path: Annotated[Path, typer.Argument(help="A Markdown file with markers.", show_default=False)],
    suite: SuiteOption = "mini",
    task: Annotated[str, typer.Option(help="Tasks of 'depth'.")] = "mini-food,mini-weather",
    only: Annotated[str, typer.Option(help="Sections: names, globs, comma lists.")] = "all",
    steps: StepsOption = 100,
    out: OutOption = Path(),
    jobs: JobsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Write tables and figures between the markers of a page, for the suite's first upgrade.

    The markers are '<!-- layers:begin -->' and '<!-- layers:end -->', and so for depth,
    embeddings and claims, and for gauge, turned, gains, sizes and words, which look at all of
    the suite's upgrades; figures go into a folder beside the page, with its name.
    """
    from compatbench.data.cards import suite_cards
    from compatbench.studies.study_pages import write_sections
    from compatbench.studies.study_setup import StudySetup

    source, target, *_ = suite_cards.read(suite).upgrades[0]
    setup = StudySetup.make(source, target, suite, device, out, jobs, _watch)
    for name in write_sections(path, setup, only, task, steps):
        say(f"wrote {name} into {path}")


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
    reports = api.analyze_claims(suite, out)
    if as_json:
        print_json(reports)
    elif markdown:
        print("\n\n".join(report.markdown() for report in reports))
    else:
        print_tables([table for report in reports for table in report.tables()])


def _angles(text: str) -> list[float | None]:
    """The angles that ``--angles`` names, in degrees; None for ``random``."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        angles = [None if part == "random" else float(part) for part in parts]
    except ValueError:
        angles = []
    if not angles or not all(angle is None or 0 <= angle <= 180 for angle in angles):
        raise CompatbenchError(
            f"--angles '{text}': give degrees from 0 to 180, or 'random', separated by commas"
        )
    return angles


@contextmanager
def _watch(cells: Sequence[Cell], jobs: int) -> Iterator[OnEvent]:
    """Shows the progress of fits, on standard error."""
    from compatbench.cli.progress import RunProgress

    with RunProgress(Console(stderr=True)) as progress:
        progress.begin(cells, jobs, lambda cell: 1.0)
        yield progress.on_event
