"""The bodies of ``compatbench analyze layers | depth | embeddings | page``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.backbone import load_backbone
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import select_names, suite_cards, task_cards
from compatbench.data.cards.suites import suite_tasks
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task
from compatbench.engine.execute.device import resolve_device
from compatbench.errors import CompatbenchError
from compatbench.pages.markdown import NOTHING, signed, spread
from compatbench.pages.publish import RESULTS, suite_page
from compatbench.pages.svg import save_svg, svg_style
from compatbench.results.bootstrap import Interval
from compatbench.results.measures import Mean
from compatbench.studies.depth import DepthReport, describe_trends
from compatbench.studies.drawings import draw_depth, draw_layers, draw_predictions
from compatbench.studies.embeddings import (
    PREDICTORS,
    Geometry,
    Prediction,
    class_cosines,
    measure_geometry,
    predict_losses,
    summarize_predictions,
)
from compatbench.studies.layers import LayersReport, analyze_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Output:
    """Where an analysis goes.

    Attributes:
        form: ``table``, ``json`` or ``csv``, on standard output.
        figure: the SVG file to write, if any.
    """

    form: str = "table"
    figure: Path | None = None

    @classmethod
    def of(cls, as_json: bool, as_csv: bool, figure: Path | None) -> Output:
        """Raises CompatbenchError: two forms at once, or a figure that is not SVG by its name."""
        if as_json and as_csv:
            raise CompatbenchError("--json and --csv: give one of the two")
        if figure is not None and figure.suffix != ".svg":
            raise CompatbenchError(f"--figure '{figure}': figures are SVG; end the name in .svg")
        return cls("json" if as_json else "csv" if as_csv else "table", figure)

    def print_rows(self, rows: Sequence[Any]) -> bool:
        """Prints dataclasses as JSON or CSV, if that is wanted; not wrapped, not coloured."""
        if self.form == "json":
            print_json([asdict(row) for row in rows])
        elif self.form == "csv":
            out = io.StringIO()
            writer = csv.writer(out, lineterminator="\n")
            lines = [_flat(row) for row in rows]
            writer.writerow(lines[0])
            writer.writerows(line.values() for line in lines)
            print(out.getvalue(), end="")
        return self.form != "table"

    def draw(self, draw: Callable[[], Figure]) -> None:
        """Writes the figure, if one is wanted."""
        if self.figure is not None:
            with svg_style():
                save_svg(draw(), self.figure)


def layers_report(
    source: str, target: str, tasks: str | None, suite: str, images: int, seed: int, device: str
) -> LayersReport:
    """Loads both backbones and compares them layer by layer.

    Raises:
        CompatbenchError: an unknown name, or a text tower that is not understood.
    """
    on = resolve_device(device)
    chosen = [load_task(name) for name in choose_tasks(tasks, suite)]
    return analyze_layers(
        load_backbone(source, on), load_backbone(target, on), chosen, images, seed
    )


def show_layers(console: Console, report: LayersReport, output: Output) -> None:
    """Prints the layers."""
    if not output.print_rows(report.changes):
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
        _print_table(console, [*header, "features", "relative", "CKA"], rows, left=2)
        count = len(report.tasks)
        _say(
            console,
            f"{report.texts} prompts and {report.images} test images of {count} "
            f"task{'s' if count > 1 else ''}",
        )
        for note in report.notes:
            _say(console, f"[yellow]{escape(note)}[/]")
    output.draw(lambda: draw_layers(report))


def show_depth(console: Console, report: DepthReport, output: Output) -> None:
    """Prints the places, and the trends."""
    if not output.print_rows(report.points):
        rows = [
            [
                one.kind,
                one.place,
                f"{one.parameters:,}",
                *map(spread, (one.source, one.target, one.h)),
                signed(one.source_gain.value),
                signed(one.target_gain.value),
                ", ".join(f"{rate:g}" for rate in one.rates),
            ]
            for one in report.points
        ]
        header = ["module", "place", "parameters", "source", "target", "H"]
        _print_table(console, [*header, "source gain", "target gain", "rates"], rows, left=2)
        for line in describe_trends(report):
            _say(console, line)
    output.draw(lambda: draw_depth(report))


@dataclass(frozen=True)
class EmbeddingsReport:
    """The figures of all tasks, and how they go with what methods lose.

    Attributes:
        cosines: task -> class -> cosine of its old and new text feature.
    """

    geometry: tuple[Geometry, ...]
    cosines: dict[str, dict[str, float | None]]
    predictions: tuple[Prediction, ...]


def embeddings_report(
    source: str, target: str, tasks: str | None, suite: str, out: Path, device: str
) -> EmbeddingsReport:
    """Loads both backbones and the suite's results.

    Raises:
        CompatbenchError: an unknown name, or a broken results file.
    """
    on = resolve_device(device)
    chosen = [load_task(name) for name in choose_tasks(tasks, suite)]
    old, new = load_backbone(source, on), load_backbone(target, on)
    cache = FeatureCache(default_cache_folder())
    geometry = tuple(measure_geometry(old, new, one, cache) for one in chosen)
    cosines = {
        one.name: dict(zip(one.labels.names, class_cosines(old, new, one.labels), strict=True))
        for one in chosen
    }
    page = suite_page(suite_cards.read(suite), out)
    return EmbeddingsReport(
        geometry, cosines, tuple(predict_losses(page, geometry, (source, target)))
    )


def show_embeddings(
    console: Console, report: EmbeddingsReport, output: Output, folder: Path
) -> None:
    """Prints the figures of the tasks, and the correlations if there are results."""
    if output.form == "json":
        print_json(asdict(report))
    elif not output.print_rows(report.geometry):
        rows = [
            [one.task, *[_number(getattr(one, name), 3) for name in PREDICTORS]]
            for one in report.geometry
        ]
        header = ["task", *[name.replace(" ", "\n") for name in PREDICTORS.values()]]
        _print_table(console, header, rows, gap=1)
        if report.predictions:
            console.print()
            _print_predictions(console, report.predictions)
        else:
            _say(
                console,
                f"[yellow]{escape(str(folder))} holds no complete method for this upgrade, so "
                "losses are left out[/]",
            )
    if report.predictions:
        output.draw(lambda: draw_predictions(report.predictions))


def _print_predictions(console: Console, predictions: Sequence[Prediction]) -> None:
    rows = [
        [PREDICTORS[one.measure], *_correlation(one.mean), f"{one.clear} of {one.methods}"]
        for one in summarize_predictions(predictions)
    ]
    _print_table(console, ["figure", "ρ with the mean loss", "interval", "methods off 0"], rows)
    _say(
        console,
        f"over {predictions[0].tasks} tasks; of intervals that mean nothing, one in twenty or "
        "more is off 0",
    )


def choose_tasks(wanted: str | None, suite: str) -> list[str]:
    """The tasks that ``--task`` means, by default those of the suite.

    Raises:
        CompatbenchError: a name that nothing bears, or a broken card.
    """
    if wanted is None:
        return list(suite_tasks(suite_cards.read(suite)))
    return select_names(wanted, task_cards.names(), "task")


def choose_own_tasks(wanted: str) -> list[str]:
    """As above, of the tasks that have images to learn from."""
    names = [name for name in task_cards.names() if task_cards.read(name).parent is None]
    return select_names(wanted, names, "task to learn from")


def results_folder(out: Path, suite: str) -> Path:
    return out / RESULTS / suite


def print_json(value: Any) -> None:
    """Not through the console, which would wrap and colour it."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _print_table(
    console: Console,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: int = 1,
    gap: int = 2,
) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i < left else "right", no_wrap=i < left)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _flat(row: Any) -> dict[str, Any]:
    """A dataclass as cells of a table: a mean is two of them, and a tuple is one."""
    cells: dict[str, Any] = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, Mean):
            cells |= {field.name: value.value, f"{field.name}_std": value.std}
        else:
            cells[field.name] = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return cells


def _correlation(found: Interval | None) -> tuple[str, str]:
    """Spearman's coefficient, and its interval."""
    if found is None:
        return NOTHING, NOTHING
    return f"{found.value:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}"


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"


def _share(part: int, whole: int) -> str:
    return NOTHING if whole == 0 else f"{100 * part / whole:.0f} %"
