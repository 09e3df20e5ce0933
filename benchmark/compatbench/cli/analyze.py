"""``compatbench analyze`` and ``claims``. Heavy imports wait until a command needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from compatbench.cli.output import plain_table
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.studies.study import StudyOptions
    from compatbench.studies.study_report import StudyReport, TextTable

console = Console()
app = typer.Typer(
    name="analyze",
    no_args_is_help=True,
    help="Look into an upgrade: which layers have moved, at which depth a module survives, "
    "how the class embeddings have moved, and how much of it is a rotation of the joint space.",
)


def _backbone(text: str) -> Any:
    return typer.Argument(help=text, autocompletion=complete_backbones, show_default=False)


SourceArgument = Annotated[str, _backbone("The old model (see 'compatbench list backbones').")]
TargetArgument = Annotated[str, _backbone("The new model.")]
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
        source, target, tasks=task, images=images, seed=seed, suite=suite, device=device
    )
    show(report, as_json, as_csv, figure)


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
        typer.Option(min=1e-9, help="One learning rate for all fits.", show_default="each its own"),
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
    numbers = {"shots": shots, "seeds": read_numbers("--seeds", seeds, least=0), "steps": steps}
    if lr is not None:
        numbers["rates"] = (lr,)
    with _fit_options(suite, out, jobs, device) as options:
        report = api.analyze_depth(source, target, task, **numbers, **options)
    show(report, as_json, as_csv, figure)


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
    report = api.analyze_embeddings(source, target, tasks=task, suite=suite, out=out, device=device)
    show(report, as_json, as_csv, figure, whole=report)
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
        str, typer.Option(help="Largest angles of the turns, 0 to 180 degrees, or 'random'.")
    ] = "0,45,90,135,180,random",
    turns: Annotated[int, typer.Option(min=1, help="Random turns of each angle.")] = 3,
    sizes: Annotated[
        str | None, typer.Option(help="Make the joint space so narrow instead, such as '32,64'.")
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Use parts of the word list instead.")
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
    changes = {"angles": _read_angles(angles), "sizes": read_numbers("--sizes", sizes, least=1)}
    numbers = {"shots": shots, "seeds": read_numbers("--seeds", seeds, least=0), "turns": turns}
    if figure is not None and methods is None:
        raise CompatbenchError("--figure shows the stress test; give --methods, too")
    if sizes and words:
        raise CompatbenchError("--sizes and --words: give one of the two")
    report = api.analyze_gauge(source, target, tasks=task, suite=suite, device=device)
    if methods is None:
        show(report, as_json, as_csv, figure, whole={"gauge": report, "stress": []})
        return
    with _fit_options(suite, out, jobs, device) as options:
        stress = api.analyze_stress(
            source, target, methods, tasks=task, words=words, **changes, **numbers, **options
        )
    if not as_json and not as_csv:
        print_tables(report.tables())
        console.print()
    show(stress, as_json, as_csv, figure, whole={"gauge": report, "stress": stress.points})


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
    from compatbench.studies.study_pages import write_sections

    with _fit_options(suite, out, jobs, device) as options:
        for name in write_sections(path, only, task, steps, **options):
            say(f"wrote {name} into {path}")


def claims(
    suite: SuiteOption = "mini",
    out: OutOption = Path(),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the founding paper's claims with results: supported, contradicted or undecided.

    Each claim comes with the data that bears on it, the size of the effect, and a bootstrap
    interval over datasets, by which the verdict goes. A missing cell gives no mean.
    """
    reports = api.analyze_claims(suite, out)
    if as_json:
        _print_json(reports)
    elif markdown:
        print("\n\n".join(report.markdown() for report in reports))
    else:
        print_tables([table for report in reports for table in report.tables()])


def _read_angles(text: str) -> list[float | None]:
    """Angles in degrees; None for ``random``."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    with suppress(ValueError):
        angles = [None if part == "random" else float(part) for part in parts]
        if angles and all(angle is None or 0 <= angle <= 180 for angle in angles):
            return angles
    raise CompatbenchError(
        f"--angles '{text}': give degrees from 0 to 180, or 'random', separated by commas"
    )


@contextmanager
def _fit_options(suite: str, out: Path, jobs: int | None, device: str) -> Iterator[StudyOptions]:
    """How modules are fitted; their progress is shown on standard error."""
    from compatbench.cli.progress import RunProgress

    with RunProgress(Console(stderr=True)) as progress:
        yield {
            "suite": suite,
            "out": out,
            "jobs": jobs,
            "device": device,
            "on_start": progress.start_plan,
            "on_event": progress.on_event,
        }


def check_output(as_json: bool, as_csv: bool, figure: Path | None) -> None:
    if as_json and as_csv:
        raise CompatbenchError("--json and --csv: give one of the two")
    if figure is not None and figure.suffix != ".svg":
        raise CompatbenchError(f"--figure '{figure}': figures are SVG; end the name in .svg")


def show(
    report: StudyReport, as_json: bool, as_csv: bool, figure: Path | None, whole: Any = None
) -> None:
    """Prints a report, and draws its figure if one is wanted.

    Args:
        whole: what JSON holds, in place of the report's rows.
    """
    if as_json:
        _print_json(report.rows if whole is None else whole)
    elif as_csv:
        joined = report.rows.map(lambda x: " ".join(map(str, x)) if type(x) is tuple else x)
        print(joined.to_csv(index=False, lineterminator="\n"), end="")
    else:
        print_tables(report.tables())
    if figure is not None:
        report.save_figure(figure)


def _print_json(data: Any) -> None:
    from compatbench.studies.study_report import to_json

    print(to_json(data))  # the console would wrap it


def print_tables(tables: Sequence[TextTable]) -> None:
    for i, table in enumerate(tables):
        if i:
            console.print()
        if table.head:
            say(table.head.replace("`", ""))
        shown = plain_table()
        for column, title in enumerate(table.header):
            side = "left" if column in table.left else "right"
            shown.add_column(title, justify=side, overflow="fold")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown, highlight=False, markup=False)
        for note in table.notes:
            say(note)


def say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
