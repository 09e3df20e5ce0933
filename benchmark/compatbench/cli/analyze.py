"""``compatbench analyze layers | depth | embeddings``: why a module survives an upgrade."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.cards import backbone_cards, select_names, suite_cards, task_cards
from compatbench.cards.suites import suite_tasks
from compatbench.leaderboard.markdown import signed, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from compatbench.analysis.embeddings import Prediction
    from compatbench.statistics.bootstrap import Interval
    from compatbench.task import Task

app = typer.Typer(
    no_args_is_help=True,
    help="Look into an upgrade: which layers have moved, at which depth a module survives, and "
    "how the class embeddings have moved.",
)
console = Console()
DEFAULT_SUITE = "mini"


def _complete_backbones(incomplete: str) -> list[str]:
    return [name for name in backbone_cards.names() if name.startswith(incomplete)]


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
        help="Tasks whose class names and images are used: names, globs, comma lists.",
        autocompletion=_complete_tasks,
        show_default=f"all of suite '{DEFAULT_SUITE}'",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
FigureOption = Annotated[
    Path | None, typer.Option("--figure", help="Write the figure to this SVG file.")
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, mps.")
]


@app.command()
def layers(
    source: SourceArgument,
    target: TargetArgument,
    task: TaskOption = None,
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
    from compatbench.analysis.drawings import draw_layers
    from compatbench.analysis.layers import LayerChange, analyze_layers
    from compatbench.backbone import load_backbone
    from compatbench.cli.run import resolve_device

    on = resolve_device(device)
    chosen = _tasks(task)
    pair = [load_backbone(name, on) for name in (source, target)]
    report = analyze_layers(pair[0], pair[1], chosen, images, seed)
    if not _emit(report.changes, LayerChange, as_json, as_csv):
        rows = [
            [
                one.tower,
                one.layer if one.layer == one.target_layer else f"{one.layer} → {one.target_layer}",
                _share(one.compared, one.parameters),
                _number(one.parameter_change, 4),
                _percent(one.parameter_relative),
                _number(one.feature_change, 3),
                _percent(one.feature_relative),
                _number(one.cka, 3),
            ]
            for one in report.changes
        ]
        header = ["tower", "layer", "compared", "parameters", "relative"]
        _print_table([*header, "features", "relative", "CKA"], rows, left=2)
        _say(
            f"{report.texts} prompts and {report.images} test images of {len(report.tasks)} "
            f"task{'s' if len(report.tasks) > 1 else ''}"
        )
        for note in report.notes:
            _say(f"[yellow]{escape(note)}[/]")
    _write_figure(figure, lambda: draw_layers(report))


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
    suite: Annotated[
        str, typer.Option("--suite", help="Suite whose shots, seeds and views are used.")
    ] = DEFAULT_SUITE,
    shots: Annotated[
        int | None, typer.Option("--shots", min=1, show_default="the suite's most")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Such as '1,2'.", show_default="the suite's")
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Most optimiser steps of a fit.")
    ] = 100,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            min=1e-9,
            help="One learning rate for all depths.",
            show_default="chosen for each fit on its few-shot validation images",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of runs/, where fits are kept.", file_okay=False)
    ] = Path(),
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Worker processes.", show_default="one per core"),
    ] = None,
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
    from compatbench.analysis.depth import DepthPoint, describe_trends
    from compatbench.analysis.drawings import draw_depth
    from compatbench.cli.app import _numbers
    from compatbench.cli.depth import run_depth

    report = run_depth(
        Console(stderr=True),
        source=source,
        target=target,
        tasks=select_names(task, _own_tasks(), "task"),
        suite=suite,
        shots=shots,
        seeds=_numbers("--seeds", seeds, least=0),
        steps=steps,
        lr=lr,
        out=out,
        jobs=jobs,
        device=device,
    )
    if not _emit(report.points, DepthPoint, as_json, as_csv):
        rows = [
            [
                one.kind,
                one.place,
                f"{one.parameters:,}",
                *map(spread, (one.source, one.target, one.h)),
                *[signed(gain.value) for gain in (one.source_gain, one.target_gain)],
                ", ".join(f"{rate:g}" for rate in one.rates),
            ]
            for one in report.points
        ]
        header = ["module", "place", "parameters", "source", "target", "H", "source gain"]
        _print_table([*header, "target gain", "rates"], rows, left=2)
        for line in describe_trends(report):
            _say(line)
    _write_figure(figure, lambda: draw_depth(report))


@app.command()
def embeddings(
    source: SourceArgument,
    target: TargetArgument,
    task: TaskOption = None,
    suite: Annotated[
        str, typer.Option("--suite", help="Suite whose results say what methods lose.")
    ] = DEFAULT_SUITE,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of results/.", file_okay=False)
    ] = Path(),
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
    from compatbench.analysis.drawings import draw_predictions
    from compatbench.analysis.embeddings import (
        PREDICTORS,
        Geometry,
        class_cosines,
        measure_geometry,
        predict_losses,
    )
    from compatbench.backbone import load_backbone
    from compatbench.cachefiles import default_cache_folder
    from compatbench.cli.run import resolve_device
    from compatbench.features import FeatureCache
    from compatbench.leaderboard.publish import suite_page

    on = resolve_device(device)
    chosen = _tasks(task)
    old, new = (load_backbone(name, on) for name in (source, target))
    cache = FeatureCache(default_cache_folder())
    found = [measure_geometry(old, new, one, cache) for one in chosen]
    page = suite_page(suite_cards.read(suite), out)
    predictions = predict_losses(page, found, (source, target))
    if as_json:
        cosines = {
            one.name: dict(zip(one.labels.names, class_cosines(old, new, one.labels), strict=True))
            for one in chosen
        }
        about = {
            "geometry": [asdict(one) for one in found],
            "class_text_cosines": cosines,
            "predictions": [asdict(one) for one in predictions],
        }
        print(json.dumps(about, indent=1, ensure_ascii=False))
    elif not _emit(found, Geometry, False, as_csv):
        names = [name for name in PREDICTORS if name != "gap_change"]
        rows = [
            [
                one.task,
                *[_number(getattr(one, name), 3) for name in names],
                f"{one.source_gap:.2f} → {one.target_gap:.2f}",
            ]
            for one in found
        ]
        _print_table(["task", *[PREDICTORS[name] for name in names], "gap"], rows)
        _print_predictions(predictions, suite, out)
    if predictions:
        _write_figure(figure, lambda: draw_predictions(predictions))


def _print_predictions(predictions: Sequence[Prediction], suite: str, out: Path) -> None:
    from compatbench.analysis.embeddings import PREDICTORS, summarize_predictions

    if not predictions:
        _say(
            f"[yellow]{escape(str(out / 'results' / suite))} holds no complete method for this "
            "upgrade, so losses are left out[/]"
        )
        return
    rows = [
        [PREDICTORS[one.measure], *_correlation(one.mean), f"{one.clear} of {one.methods}"]
        for one in summarize_predictions(predictions)
    ]
    console.print()
    _print_table(["figure", "ρ with the mean loss", "interval", "methods off 0"], rows)
    _say(
        f"over {predictions[0].tasks} tasks; of intervals that mean nothing, one in twenty or "
        "more is off 0"
    )


def _own_tasks() -> list[str]:
    """The tasks that have images to learn from."""
    return [name for name in task_cards.names() if task_cards.read(name).parent is None]


def _tasks(wanted: str | None) -> list[Task]:
    """The tasks that ``--task`` means, by default those of the default suite.

    Raises:
        CompatbenchError: a name that nothing bears, or a broken card.
    """
    from compatbench.task import load_task

    if wanted is None:
        names: Iterable[str] = suite_tasks(suite_cards.read(DEFAULT_SUITE))
    else:
        names = select_names(wanted, task_cards.names(), "task")
    return [load_task(name) for name in names]


def _emit(rows: Sequence[Any], kind: type, as_json: bool, as_csv: bool) -> bool:
    """Prints dataclasses as JSON or CSV, if that is wanted; not wrapped, not coloured."""
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False))
    elif as_csv:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        names = [field.name for field in fields(kind)]
        writer.writerow(names)
        writer.writerows([getattr(row, name) for name in names] for row in rows)
        print(out.getvalue(), end="")
    return as_json or as_csv


def _write_figure(path: Path | None, draw: Any) -> None:
    if path is None:
        return
    from compatbench.svg import save_svg, svg_style

    with svg_style():
        figure: Figure = draw()
        save_svg(figure, path)


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i < left else "right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _correlation(found: Interval | None) -> tuple[str, str]:
    """Spearman's coefficient, and its interval."""
    if found is None:
        return "–", "–"
    return f"{found.value:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _share(part: int, whole: int) -> str:
    return "–" if whole == 0 else f"{100 * part / whole:.0f} %"
