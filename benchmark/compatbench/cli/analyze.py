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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _share(part: int, whole: int) -> str:
    return "–" if whole == 0 else f"{100 * part / whole:.0f} %"
