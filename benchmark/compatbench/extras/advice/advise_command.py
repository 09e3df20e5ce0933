"""``compatbench advise``."""

import sys
from contextlib import suppress
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
    Verbose,
    read_settings,
)
from compatbench.errors import CompatbenchError


@app.command("advise", rich_help_panel=OWNERS)
def advise(
    place: Annotated[
        Path | None,
        typer.Argument(
            metavar="[IMAGES|MODULE]",
            help="Your images: a folder of class folders, a list (CSV, TSV, JSON lines), tar "
            "shards, parquet files, or a task: its name or its card. Or the file of a module, to "
            "test on the targets of the suite.",
        ),
    ] = None,
    module: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            help="With images: the module to test, its file or a checkpoint of other code, whose "
            "format is recognised. Repeat it for several.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="With images: the old model, that a checkpoint was trained on.",
            autocompletion=complete_backbones,
        ),
    ] = None,
    labels: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="NUMBER",
            help="With images: also retrain with so many labelled images per class. No image "
            "trains the module that is tested on it.",
        ),
    ] = None,
    suite: Suite = "mini",
    methods: Annotated[
        str,
        typer.Option(
            help="With images and no module: the methods to train, by default three cheap ones. "
            "With a module: the path of its method's file, if it is not in 'list methods'. Of a "
            "suite: the methods to consider (names, globs, exclusions).",
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
    class_names: Annotated[
        str | None,
        typer.Option(
            "--class-names",
            metavar="FILE",
            help="With images: the classes of a checkpoint in its order, a name on each line.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="With images: settings that a checkpoint does not contain, such as 'alpha=1'.",
        ),
    ] = None,
    skip_broken: Annotated[
        bool,
        typer.Option(
            "--skip-broken",
            help="With images: leave out those that cannot be read, and list them in a file.",
        ),
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            help="The folder of 'results/'; with images, the folder for 'advice.md', "
            "'advice.json', the task and modules."
        ),
    ] = Path(),
    yes: Annotated[
        bool, typer.Option("--yes", help="Download missing weights without a question.")
    ] = False,
    device: Device = "auto",
    data_root: DataRoot = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
    offline: Offline = False,
    trust_pickle: TrustPickle = False,
    cards: Cards = None,
) -> None:
    """Advise whether to keep, port or retrain modules in an upgrade, with expected accuracies.

    With images, modules are tested on all of them, on the old model and on the new ones, untouched
    and through 'words'. Without a module, three cheap methods are trained first.

    compatbench advise photos --module output/seed1 --source vit-b16-openai --target eva02-b16

    Without images the advice comes from what 'run' has left in 'results/', and nothing is computed.
    """
    from compatbench.engine.request import check_names

    check_names(suite, backbones=[source])
    import compatbench
    from compatbench.extras.advice.own_images import are_images
    from compatbench.extras.advice.saved_advice import list_written

    has_images = place is not None and are_images(place) and not _is_module(place)
    if not has_images:
        _check_place(place, module, source)
    elif suite != "mini":
        raise CompatbenchError(
            f"--suite '{suite}' is for the results of a suite, not for images: leave one out"
        )
    given: dict[str, Any] = {"module": place}
    if has_images:
        given = {"module": module, "yes": yes or _agree(source, target, upgrade, module)}
    advice = compatbench.advise(
        str(place) if has_images else suite,
        methods,
        **given,
        source=source,
        labels=labels,
        class_names=class_names,
        settings=read_settings(settings),
        skip_broken=skip_broken,
        upgrade=upgrade,
        target=target,
        tasks=tasks,
        shots=shots,
        out=out,
        device=device,
    )
    show(advice, as_json)
    if has_images:
        print(f"Wrote {', '.join(list_written(advice, out))}", file=sys.stderr)
    if verbose and not as_json:
        show(advice.details())


def _is_module(place: Path) -> bool:
    return place.is_file() and place.suffix == ".safetensors"


def _agree(
    source: str | None, target: str | None, upgrade: str | None, modules: list[str] | None
) -> bool:
    """Show which weights are missing, and ask on a terminal; False where nobody can answer."""
    from compatbench.backbone.load import is_offline
    from compatbench.backbone.needed_files import list_needed_files
    from compatbench.cli.output import console, print_table
    from compatbench.data.cards import backbone_cards

    if is_offline() or not (console.is_terminal and sys.stdin.isatty()):
        return False
    if upgrade is not None:
        source, _, target = upgrade.partition(",")
    elif source is None and modules:
        source = _find_source(modules[0])
    if not source or not target or target == "all":
        return False
    names = [backbone_cards.resolve(source), *backbone_cards.resolve_all(target)]
    missing = [file for file in list_needed_files(names) if file.path is None]
    if not missing:
        return False
    rows = [(file.name, file.size_in_words, file.licence) for file in missing]
    print_table(["to download", "size", "licence"], rows, right=["size"])
    return typer.confirm("Download these files?")


def _find_source(module: str) -> str | None:
    """Return the model that a module of compatbench was fitted on; None for another file."""
    from compatbench.extras.advice.own_images import read_own_module

    with suppress(CompatbenchError):  # ``advise`` raises it
        return read_own_module(module)[1].source
    return None


def _check_place(place: Path | None, modules: list[str] | None, source: str | None) -> None:
    """Raise CompatbenchError unless a module alone is a file, and the options go with it."""
    is_module = str(place).startswith("hf:") or str(place).endswith(".safetensors")
    if place is not None and not is_module and not place.expanduser().exists():
        raise CompatbenchError(f"there is nothing at '{place}', and no task has that name")
    if modules:
        if place is None:
            raise CompatbenchError(
                "--module needs your images: compatbench advise IMAGES --module ..."
            )
        raise CompatbenchError(f"there are no images at '{place}', and no task has that name")
    if source is not None:
        raise CompatbenchError("--source needs your images: compatbench advise IMAGES --source ...")
