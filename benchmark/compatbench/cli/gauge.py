"""The options of ``compatbench analyze gauge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from compatbench.cli.analyze import (
    CsvOption,
    DeviceOption,
    FigureOption,
    JobsOption,
    JsonOption,
    OutOption,
    SourceArgument,
    SuiteOption,
    TargetArgument,
    TaskOption,
)
from compatbench.cli.options import complete_methods

console = Console()


def gauge(
    source: SourceArgument,
    target: TargetArgument,
    task: TaskOption = None,
    suite: SuiteOption = "mini",
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="Methods for the stress test: names, globs, comma lists.",
            show_default="no stress test",
            autocompletion=complete_methods,
        ),
    ] = None,
    angles: Annotated[
        str,
        typer.Option(
            "--angles",
            help="Largest angles of the turns in degrees, 0 to 180; 'random' is any rotation.",
        ),
    ] = "0,45,90,135,180,random",
    turns: Annotated[int, typer.Option("--turns", min=1, help="Random turns of each angle.")] = 3,
    sizes: Annotated[
        str | None,
        typer.Option(
            "--sizes",
            help="Instead of turning it, make the target's joint space so narrow, such as '32,64'.",
            show_default="turns",
        ),
    ] = None,
    words: Annotated[
        bool,
        typer.Option(
            "--words", help="Instead of turning the target, align by parts of the word list."
        ),
    ] = False,
    shots: Annotated[
        int | None,
        typer.Option("--shots", min=1, help="Images per class.", show_default="the suite's most"),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="Seeds, such as '1,2'.", show_default="the suite's"),
    ] = None,
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
    they act on features, aligned by words. The target's zero-shot answers stay what they are.
    """
    from compatbench.cli.analyses import Output
    from compatbench.cli.gauge_report import Stress, gauge_command
    from compatbench.cli.options import read_numbers

    output = Output.of(as_json, as_csv, figure)
    stress = None
    if methods is not None:
        stress = Stress(
            methods=methods,
            angles=angles,
            turns=turns,
            sizes=read_numbers("--sizes", sizes, least=1),
            words=words,
            shots=shots,
            seeds=read_numbers("--seeds", seeds, least=0),
            out=out,
            jobs=jobs,
        )
    gauge_command(console, source, target, task, suite, stress, device, output)
