"""``compatbench analyze`` and ``claims``. Heavy imports wait until a command needs them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.markup import escape

import compatbench as api
from compatbench.cli import options
from compatbench.cli.output import console, error_console, plain_table, print_json, say
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.extras.studies.frames import StudyReport, TextTable

app = typer.Typer(
    name="analyze",
    no_args_is_help=True,
    help="Analyse an upgrade: which layers have moved, at which depth a module survives, "
    "and how the class embeddings have moved.",
)


class Shown(NamedTuple):
    """What an analysis shows: tables, CSV and a figure of a report, and JSON."""

    report: StudyReport
    json: Any
    note: str = ""  # below the tables


def _shared(
    source: str,
    target: str,
    suite: str = "mini",
    device: str = "auto",
    as_json: bool = False,
    as_csv: bool = False,
    figure: Path | None = None,
) -> None:
    """The options that all analyses of an upgrade have."""


def _analysis(study: Callable[..., Shown]) -> None:
    """Registers an analysis: a command with its own options among those that all have."""

    @wraps(study)
    def run(as_json: bool, as_csv: bool, figure: Path | None, **given: Any) -> None:
        from compatbench.cli.progress import RunProgress

        if as_json and as_csv:
            raise CompatbenchError("--json and --csv: give one of the two")
        if figure is not None and figure.suffix != ".svg":
            raise CompatbenchError(f"--figure '{figure}': figures are SVG; end the name in .svg")
        with RunProgress(error_console) as progress:
            shown = study(on_start=progress.start_plan, on_event=progress.on_event, **given)
        report = shown.report
        if as_json:
            print_json(shown.json)
        elif as_csv:
            joined = report.rows.map(lambda x: " ".join(map(str, x)) if type(x) is tuple else x)
            print(joined.to_csv(index=False, lineterminator="\n"), end="")
        else:
            _print_tables(report.tables())
            if shown.note:
                say(escape(shown.note))
        if figure is not None and not report.save_figure(figure):
            raise CompatbenchError(f"--figure '{figure}': there is nothing to draw")

    shared, own = (inspect.signature(one, eval_str=True).parameters for one in (_shared, study))
    parameters = {"source": shared["source"], "target": shared["target"], **own, **shared}
    del parameters["given"]
    run.__signature__ = inspect.Signature([*parameters.values()])  # type: ignore[attr-defined]
    options.command(app)(run)


@_analysis
def layers(
    task: str | None = None,
    images: Annotated[int, typer.Option(min=4)] = 256,
    seed: int = 1,
    **given: Any,
) -> Shown:
    """Show how far each layer of both towers has moved: its parameters and its features.

    The change is the mean of |new - old|; the relative change is a share of the mean of |old|.
    CKA is 1 for features that are the same but for rotation and scale. Where shapes differ,
    CKA alone is given.

    Args:
        task: Tasks whose class names and images are used; by default all of the suite.
        images: Number of test images, the same share from every task.
        seed: Seed of the draw of images.
    """
    report = api.analyze_layers(tasks=task, images=images, seed=seed, **given)
    return Shown(report, report.rows)


@_analysis
def depth(
    task: Annotated[str, typer.Option(autocompletion=options.complete_tasks)],
    shots: int | None = None,
    seeds: str | None = None,
    steps: int = 100,
    lr: Annotated[float | None, typer.Option(min=1e-9)] = None,
    out: Path = Path(),
    jobs: int | None = None,
    **given: Any,
) -> Shown:
    """Fit the same small module at each depth of the text tower, and carry it over.

    A bias, and a low-rank map, are inserted before the first block, after each block, and after the
    last norm; each is fitted on the source and attached untouched to the target. Finished fits are
    kept and not run again.

    Args:
        task: Tasks that modules are fitted on: names, globs, comma lists.
        shots: Images per class; by default the suite's most.
        lr: One learning rate for all fits; by default each has its own.
    """
    if lr is not None:
        given["rates"] = (lr,)
    given |= {"shots": shots, "seeds": options.split(seeds), "steps": steps, "out": out}
    report = api.analyze_depth(tasks=task, jobs=jobs, **given)
    return Shown(report, report.rows)


@_analysis
def embeddings(task: str | None = None, out: Path = Path(), **given: Any) -> Shown:
    """Show how the classes' embeddings have moved, and whether that predicts what methods lose.

    The loss of a method on a task is its gain over zero-shot on the source minus that on the
    target; it is correlated, by rank over tasks, with each figure. CSV has the figures of the
    tasks, JSON all.

    Args:
        task: Tasks whose class names and images are used; by default all of the suite.
    """
    report = api.analyze_embeddings(tasks=task, out=out, **given)
    note = ""
    if report.predictions.empty:
        folder = out / "results" / given["suite"]
        note = f"{folder} holds no complete method for this upgrade, so losses are left out"
    return Shown(report, report, note)


def claims(
    suite: str = "mini", out: Path = Path(), markdown: bool = False, as_json: bool = False
) -> None:
    """Compare the founding paper's claims with results: supported, contradicted or undecided.

    Each claim is shown with its data, the size of the effect, and a bootstrap
    interval over datasets, which decides the verdict. A missing cell gives no mean.

    Args:
        markdown: Print Markdown.
    """
    reports = api.analyze_claims(suite, out)
    if as_json:
        print_json(reports)
    elif markdown:
        print("\n\n".join(report.markdown() for report in reports))
    else:
        _print_tables([table for report in reports for table in report.tables()])


def _print_tables(tables: Sequence[TextTable]) -> None:
    for i, table in enumerate(tables):
        if i:
            console.print()
        if table.head:
            say(escape(table.head.replace("`", "")))
        shown = plain_table()
        for column, title in enumerate(table.header):
            # Titles are longer than numbers, and may be wrapped.
            side = "left" if column in table.left else "right"
            shown.add_column(title, justify=side, no_wrap=not column, overflow="fold")
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(shown)
        for note in table.notes:
            say(escape(note))
