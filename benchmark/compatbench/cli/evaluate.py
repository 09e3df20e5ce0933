"""``compatbench evaluate``: a saved module on a new backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from compatbench.cli.options import (
    DataRootOption,
    DeviceOption,
    OfflineOption,
    TrustPickleOption,
    complete_backbones,
    complete_tasks,
)
from compatbench.cli.tables import plain_table, print_line

if TYPE_CHECKING:
    from compatbench.engine.single_module import Evaluation

console = Console()


def evaluate(
    module: Annotated[Path, typer.Argument(help="A module that 'run' has left in runs/modules/.")],
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            help="The new model: a name of 'list backbones', or MODEL/TAG of open_clip, "
            "MODEL@FILE, local-dir:FOLDER, hf:FOLDER.",
            autocompletion=complete_backbones,
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="The test set: the module's task or a variant of it.",
            show_default="the module's task",
            autocompletion=complete_tasks,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="The method's file, if it is not among 'list methods'; it is run as code.",
        ),
    ] = None,
    transfer: Annotated[
        str,
        typer.Option(
            "--transfer",
            help="How the module reaches the new model: 'copied', or 'words', which rotates the "
            "new model's joint space by words alone. With the words-*.safetensors that 'run' "
            "leaves beside its modules, 'words' does not need the source model.",
        ),
    ] = "copied",
    data_root: DataRootOption = None,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    offline: OfflineOption = False,
    trust_pickle: TrustPickleOption = False,
) -> None:
    """Show whether a saved module survives a new model; nothing is trained.

    Shows its accuracy there and on its source, each beside zero-shot, and the share of images
    that were right before and are wrong now.
    """
    from compatbench import api

    found = api.evaluate(module, backbone, task, transfer=transfer, methods=methods, device=device)
    if as_json:
        # Not through the console, which would wrap and colour it.
        print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
        return
    _print(found)


def _print(found: Evaluation) -> None:
    from compatbench.data.shots import count_shots
    from compatbench.pages.markdown import percent, signed

    fitted = found.fitted
    through = "" if found.transfer == "copied" else f", through {found.transfer}"
    for line in (
        f"{fitted.method}, {count_shots(fitted.shots)} of {fitted.task}, seed {fitted.seed}"
        f"{through}",
        f"tested on {found.images:,} images of {found.test_set}; top-1 in percent",
    ):
        console.print(line, highlight=False, markup=False)
    table = plain_table()
    for column in ("", f"{fitted.source} (source)", found.backbone):
        table.add_column(column, justify="right" if column else "left")
    sides = [found.source, found.target]
    rows = {
        "with the module": [percent(side and side.accuracy) for side in sides],
        "its zero-shot": [percent(side and side.zero_shot_accuracy) for side in sides],
        "gain": [signed(side and side.gain) for side in sides],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console.print(table)
    if found.target is None:
        print_line(console, f"[yellow]not transferable[/]: {escape(found.reason)}")
        return
    flips = f"{escape(fitted.source)} is not here, so flips and H are not known."
    if found.source is not None:
        flips = (
            f"{percent(found.negative_flips)} % of the images were right before and are wrong "
            f"now, {percent(found.positive_flips)} % the reverse; H is {percent(found.h)}."
        )
    if found.verdict == "helps":
        verdict = f"[green]still helps[/]: {signed(found.target.gain)} over zero-shot"
    else:
        word = "no better than" if found.verdict == "no help" else "worse than"
        verdict = f"is [yellow]{word} zero-shot[/] on {escape(found.backbone)}"
    print_line(console, f"The module {verdict}. {flips}")
