"""``compatbench evaluate``: a saved module on a new backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from compatbench.cli import options
from compatbench.cli.output import print_frame, print_json, say

if TYPE_CHECKING:
    from compatbench.engine.single_module import Evaluation


def evaluate(
    module: Path,
    backbone: Annotated[str, typer.Option(autocompletion=options.complete_backbones)],
    task: str | None = None,
    methods: str | None = None,
    transfer: str = "copied",
    data_root: list[str] | None = None,
    device: str = "auto",
    as_json: bool = False,
    offline: bool = False,
    trust_pickle: bool = False,
) -> None:
    """Show whether a saved module survives a new model; nothing is trained.

    Shows its accuracy there and on its source, each beside zero-shot, and the share of images
    that were right before and are wrong now.

    Args:
        module: A module that 'run' has left in runs/modules/.
        backbone: The new model: a name of 'list backbones', or MODEL/TAG of open_clip,
            MODEL@FILE, local-dir:FOLDER, hf:FOLDER.
        task: The test set: the module's task, which is the default, or a variant of it.
        methods: The method's file, if it is not among 'list methods'; it is run as code.
        transfer: How the module reaches the new model: 'copied', or 'words', which rotates the
            new model's joint space by words alone. With the words-*.safetensors that 'run'
            leaves beside its modules, 'words' does not need the source model.
    """
    from compatbench import api

    found = api.evaluate(module, backbone, task, transfer=transfer, methods=methods, device=device)
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found)


def _print(found: Evaluation) -> None:
    import pandas as pd

    from compatbench.data.shots import count_shots
    from compatbench.pages.markdown import percent, signed

    fitted, source, target = found.fitted, found.source, found.target
    through = "" if found.transfer == "copied" else f", through {found.transfer}"
    draw = f"{count_shots(fitted.shots)} of {fitted.task}, seed {fitted.seed}"
    say(escape(f"{fitted.method}, {draw}{through}"))
    say(escape(f"tested on {found.images:,} images of {found.test_set}; top-1 in percent"))
    columns = ["", f"{fitted.source} (source)", found.backbone]
    sides = [source, target]
    rows = [
        ("with the module", *(percent(side and side.accuracy) for side in sides)),
        ("its zero-shot", *(percent(side and side.zero_shot_accuracy) for side in sides)),
        ("gain", *(signed(side and side.gain) for side in sides)),
    ]
    print_frame(pd.DataFrame(rows, columns=columns), right=columns[1:])
    if target is None:
        say(f"[yellow]not transferable[/]: {escape(found.reason)}")
        return
    verdict = {
        "helps": f"[green]still helps[/]: {signed(target.gain)} over zero-shot",
        "no help": f"is [yellow]no better than zero-shot[/] on {escape(found.backbone)}",
        "harms": f"is [yellow]worse than zero-shot[/] on {escape(found.backbone)}",
    }[found.verdict]
    flips = f"{escape(fitted.source)} is not here, so flips and H are not known."
    if source is not None:
        flips = (
            f"{percent(found.negative_flips)} % of the images were right before and are wrong "
            f"now, {percent(found.positive_flips)} % the reverse; H is {percent(found.h)}."
        )
    say(f"The module {verdict}. {flips}")
