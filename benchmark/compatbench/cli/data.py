"""``compatbench data shots``: the images that a cell learns from, to be shared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from compatbench.cli.options import DataRootOption, complete_tasks
from compatbench.data.shots import LARGEST_SEED
from compatbench.errors import CompatbenchError

app = typer.Typer(no_args_is_help=True, help="Look at the datasets, and share few-shot draws.")
console = Console()


@app.command()
def shots(
    task: Annotated[
        str, typer.Argument(help="The task to draw from.", autocompletion=complete_tasks)
    ],
    shots: Annotated[int, typer.Option("--shots", min=1, help="Images of every class.")] = 16,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of the draw.")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write.", show_default="the terminal", dir_okay=False),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare", help="A file of somebody else's: is it the same draw?", dir_okay=False
        ),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Export the few-shot draw of a task, shots and seed: CoOp's, made again from the split.

    The file lists each image's path and label, and the hash of the split that they were drawn
    from. 'compatbench run --shots-file FILE' trains on the images of a file, so that two labs
    use the same ones even where their folders would give other draws.
    """
    from compatbench.data.draws import draw_shots, export_draw
    from compatbench.data.task import load_task
    from compatbench.files.atomic import write_atomic

    loaded = load_task(task)
    if loaded.parent is not None:
        raise CompatbenchError(
            f"'{task}' is a variant, from which nothing is learned; draw from '{loaded.parent}'"
        )
    draw = draw_shots(loaded, shots, seed)
    about = f"{len(draw.train)} training and {len(draw.val)} validation images, {draw.sha256[:12]}"
    if compare is not None:
        theirs = draw_shots(loaded, shots, seed, compare)
        if theirs != draw:
            console.print(
                f"{compare} is another draw ({theirs.sha256[:12]}, here {draw.sha256[:12]}), of "
                "images that are all here",
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(1)
        console.print(f"{compare} is the same draw: {about}", highlight=False, soft_wrap=True)
    elif out is None:
        # Not through the console, which would wrap it.
        print(export_draw(loaded, draw, shots, seed), end="")
    else:
        write_atomic(out, export_draw(loaded, draw, shots, seed).encode())
        console.print(f"wrote {out}: {about}", highlight=False, soft_wrap=True)
