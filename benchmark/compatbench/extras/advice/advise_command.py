"""``compatbench advise``."""

from pathlib import Path
from typing import Annotated

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


@app.command("advise", rich_help_panel=OWNERS)
def advise(
    module: Annotated[
        Path | None,
        typer.Argument(
            help="The file of a module. It is measured on the targets of the suite, untouched and "
            "through 'words'; earlier results are not used."
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
    targets: Annotated[
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
    out: Annotated[Path, typer.Option(help="The folder of 'results/'.")] = Path(),
    device: Device = "auto",
    data_root: DataRoot = None,
    as_json: AsJson = False,
    offline: Offline = False,
    trust_pickle: TrustPickle = False,
    cards: Cards = None,
) -> None:
    """Advise whether to keep, port or retrain modules in an upgrade, with expected accuracies.

    Without a module the advice comes from what 'run' has left in 'results/', and nothing is
    computed.
    """
    from compatbench.engine.request import check_names

    check_names(suite)
    import compatbench

    advice = compatbench.advise(
        suite,
        methods,
        module=module,
        upgrade=upgrade,
        targets=targets,
        tasks=tasks,
        shots=shots,
        out=out,
        device=device,
    )
    show(advice, as_json)
