"""``compatbench study layers`` and ``study claims``."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compatbench.cli.completion import complete_backbones, complete_tasks
from compatbench.cli.groups import MORE, app
from compatbench.cli.output import console, print_json, show_table
from compatbench.cli.shared_options import AsJson, Cards, Device, Suite
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.tables.table import Table

study = app.add_group("study", "Study why modules survive an upgrade.", MORE)


@study.command("layers")
def layers(
    source: Annotated[
        str,
        typer.Argument(
            help="The old model (see 'list backbones').", autocompletion=complete_backbones
        ),
    ],
    target: Annotated[
        str, typer.Argument(help="The new model.", autocompletion=complete_backbones)
    ],
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks whose class names and images are used; by default all of the suite.",
            autocompletion=complete_tasks,
        ),
    ] = None,
    images: Annotated[
        int,
        typer.Option(min=4, help="Number of test images, the same share from every task."),
    ] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw of images.")] = 1,
    suite: Suite = "mini",
    device: Device = "auto",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Write the figure to this SVG file.")] = None,
    as_json: AsJson = False,
    cards: Cards = None,
) -> None:
    """Measure how far each layer of both towers has moved: its parameters and its features.

    The change is the mean of |new - old|; the relative change is a share of the mean of |old|. CKA
    is 1 for features that are the same but for rotation and scale. Where shapes differ, CKA alone
    is given.
    """
    if as_json and as_csv:
        raise CompatbenchError("--json and --csv: give one of the two")
    if figure is not None and figure.suffix != ".svg":
        raise CompatbenchError(f"--figure '{figure}': figures are SVG; end the name in .svg")
    from compatbench.engine.request import check_names

    check_names(suite, backbones=[source, target])
    check_names(tasks=tasks)  # of any suite
    import compatbench

    report = compatbench.analyze_layers(
        source, target, tasks=tasks, images=images, seed=seed, suite=suite, device=device
    )
    if as_json:
        print_json(report.data())
    elif as_csv:
        print(report.rows.to_csv(index=False, lineterminator="\n"), end="")
    else:
        _print_tables(report.tables())
    if figure is not None:
        report.save_figure(figure)


@study.command("claims")
def claims(
    suite: Suite = "mini",
    out: Annotated[
        Path,
        typer.Option(help="The folder of 'results/'; the largest number of shots is used."),
    ] = Path(),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: AsJson = False,
    cards: Cards = None,
) -> None:
    """Compare the founding paper's claims with results: supported, contradicted or undecided.

    The paper is arXiv:2412.20895. Each claim is shown with its data, the size of the effect, and a
    95 % interval over datasets, which decides the verdict if there are six or more. For claims on
    kinds of methods, the interval is over methods, too, and needs six. A missing cell gives no
    mean.
    """
    from compatbench.engine.request import check_names

    check_names(suite)
    import compatbench

    reports = compatbench.analyze_claims(suite, out)
    if as_json:
        print_json(reports)
    elif markdown:
        print("\n\n".join(report.markdown() for report in reports))
    else:
        tables: list[Table] = []
        for report in reports:
            tables += report.tables()
        _print_tables(tables)


def _print_tables(tables: "Iterable[Table]") -> None:
    for number, table in enumerate(tables):
        if number:
            console.print()
        show_table(table)
