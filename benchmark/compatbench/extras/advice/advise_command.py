"""``compatbench advise``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from compatbench.cli.completion import (
    complete_backbones,
    complete_methods,
    complete_tasks,
)
from compatbench.cli.groups import OWNERS, app
from compatbench.cli.output import show
from compatbench.cli.shared_options import (
    AsJson,
    Cards,
    DataRoot,
    Device,
    Offline,
    Suite,
    TrustPickle,
)
from compatbench.errors import CompatbenchError


@app.command("advise", rich_help_panel=OWNERS)
def advise(
    place: Annotated[
        Path | None,
        typer.Argument(
            metavar="[IMAGES|MODULE]",
            help="Your images, to test --module on: a folder of class folders, a list (CSV, TSV, "
            "JSON lines), tar shards, parquet files, or the name of a task. Or, without --module, "
            "the file of a module, to test on the targets of the suite; earlier results are not "
            "used.",
        ),
    ] = None,
    module: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            help="With images: a module's file, or a checkpoint of other code, whose format is "
            "recognised. Repeat it for several.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="With images: the old model, that a checkpoint was trained on.",
            autocompletion=complete_backbones,
        ),
    ] = None,
    suite: Suite = "mini",
    methods: Annotated[
        str,
        typer.Option(
            help="Methods with results to consider: names, globs, exclusions; with a module, the "
            "path of its method's file, if the method is not in 'list methods'.",
            autocompletion=complete_methods,
        ),
    ] = "all",
    upgrade: Annotated[
        str | None,
        typer.Option(
            metavar="OLD,NEW", help="One upgrade of the suite: source and target; by default all."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="New models to compare, a row for each: with a module any backbones ('all': those "
            "on this machine), without one those of the suite ('all': all of them).",
            autocompletion=complete_backbones,
        ),
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks of the suite, over which means are taken: names, globs, exclusions. Not "
            "with a module.",
            autocompletion=complete_tasks,
        ),
    ] = "all",
    shots: Annotated[
        int | None,
        typer.Option(help="By default the largest number of the suite. Not with a module."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="The folder of 'results/'; with images, the folder for the cards of the task."
        ),
    ] = Path(),
    device: Device = "auto",
    data_root: DataRoot = None,
    as_json: AsJson = False,
    offline: Offline = False,
    trust_pickle: TrustPickle = False,
    cards: Cards = None,
) -> None:
    """Advise whether to keep, port or retrain modules in an upgrade, with expected accuracies.

    With images and a module, the module is tested on all images, on the old model and on the new
    ones, untouched and through 'words':

    compatbench advise photos --module output/seed1 --source vit-b16-openai --target eva02-b16

    Without a module the advice comes from what 'run' has left in 'results/', and nothing is
    computed.
    """
    from compatbench.engine.request import check_names

    check_names(suite)
    import compatbench

    _check_place(place, module, source)
    given: dict[str, Any] = {"module": place}
    if module:
        given = {"module": module, "source": source}
    advice = compatbench.advise(
        str(place) if module else suite,
        methods,
        **given,
        upgrade=upgrade,
        target=target,
        tasks=tasks,
        shots=shots,
        out=out,
        device=device,
    )
    show(advice, as_json)


def _check_place(place: Path | None, modules: list[str] | None, source: str | None) -> None:
    """Raise CompatbenchError unless images come with a module, and a module alone is a file."""
    if modules and place is None:
        raise CompatbenchError("--module needs your images: compatbench advise IMAGES --module ...")
    if modules:
        return
    if source is not None:
        raise CompatbenchError("--source needs --module: the checkpoint that was trained on it")
    if place is not None and place.is_dir():
        raise CompatbenchError(
            f"{place} is a folder; give the module to test on its images: --module FILE"
        )
