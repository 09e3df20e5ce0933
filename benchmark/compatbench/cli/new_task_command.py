"""``new-task``: a task of your own images."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from compatbench.cli.completion import complete_backbones
from compatbench.cli.groups import AUTHORS, app
from compatbench.cli.output import print_frame, print_json, say, status_line
from compatbench.cli.shared_options import AsJson, Cards

if TYPE_CHECKING:
    from compatbench.data.new_task import NewTask

MOST_CLASSES = 12  # more classes are not shown
FIRST_METHOD = "tip_adapter"


@app.command("new-task", rich_help_panel=AUTHORS)
def new_task(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Class folders, below folders of splits or not; or a list (CSV, TSV) with columns "
            "such as 'path' and 'label', perhaps 'split'; tar shards of a webdataset, or parquet "
            "files of the Hub's kind ('image', 'label'). A folder, or one such file."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="The task's name; by default the folder's.")
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            help="The old model: a name (see 'list backbones'), or 'MODEL/TAG' of open_clip.",
            autocompletion=complete_backbones,
        ),
    ] = "mini-clip",
    target: Annotated[
        str,
        typer.Option(
            help="The new model, likewise; for a list with commas, the suite has an upgrade to "
            "each.",
            autocompletion=complete_backbones,
        ),
    ] = "mini-eva-clip",
    shots: Annotated[
        int | None,
        typer.Option(
            help="Training images of a class, where it has so many; by default the most of 16, 8, "
            "4, 2 and 1 that a third of the classes have, with some left for validation."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the split, where there is no test split.")
    ] = 1,
    test_share: Annotated[
        float | None,
        typer.Option(
            help="Share of each class that is then drawn for testing, above 0 and below 1. By "
            "default, every image that no module learns from is tested, and at least half of each "
            "class."
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A prompt with {} for the class; may be repeated. The first is the zero-shot one.",
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(
            help="File of natural names, a line for each class in the order of its labels (of "
            "folders: sorted); by default the names of folders or labels, with spaces for '_'."
        ),
    ] = None,
    skip_broken: Annotated[
        bool,
        typer.Option(
            "--skip-broken",
            help="Leave out images that cannot be read, and list them in '<name>-broken.txt'.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="The folder for the cards.")] = Path(),
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace cards and list of this name.")
    ] = False,
    as_json: AsJson = False,
    cards: Cards = None,
) -> None:
    """Make a task of your own images, and a suite that measures an upgrade on it.

    The images are read where they are; none is copied. The command writes the cards '<name>.yaml'
    and '<name>-upgrade.yaml' and the list '<name>.csv', and nothing if there is an error.

    The last lines show the next commands.
    """
    from compatbench.engine.request import check_names

    check_names(backbones=[source, target])
    import compatbench

    with status_line() as progress:
        made = compatbench.new_task(
            folder,
            name,
            source=source,
            target=target,
            shots=shots,
            seed=seed,
            test_share=test_share,
            template=template,
            class_names=class_names,
            skip_broken=skip_broken,
            out=out,
            replace=replace,
            progress=progress,
        )
    if as_json:
        print_json(made.frame)
        return
    frame = made.frame
    total = sum(counts.total() for counts in made.images.values())
    say(escape(f"{made.kind} in {made.folder}: {total:,} images of {len(frame)} classes"))
    checked = "all" if made.decoded == total else f"{made.decoded:,}, drawn at random,"
    say(f"{checked} were decoded; a module learns from up to {made.shots} of each class")
    for note in made.notes:
        say(f"[yellow]note[/]: {escape(note)}")
    print_frame(frame.head(MOST_CLASSES))
    if len(frame) > MOST_CLASSES:
        say(f"... and {len(frame) - MOST_CLASSES:,} more classes")
    say(escape(f"wrote {made.card.name}, {made.card.stem}.csv and {made.suite.name} to {out}"))
    _say_next_commands(made, source, target, out)


def _say_next_commands(made: "NewTask", source: str, target: str, out: Path) -> None:
    """Show how to run the new suite, and how to evaluate a module of it."""
    from compatbench.data.cards import is_card_path

    targets = target.split(",")
    options = []
    if out.resolve() != Path.cwd():
        options += ["--cards", str(out)]
    for backbone in (source, *targets):
        if is_card_path(backbone):
            options += ["--cards", backbone]
    if made.data_root:
        options += ["--data-root", made.data_root]
    words = shlex.join(options)
    trial = f"{made.task.name}-trial"
    run = f"run --suite {made.suite.stem} --methods {FIRST_METHOD} --seeds 1 --out {trial}"
    modules = f"{trial}/runs/modules/*/*.safetensors"
    first = shlex.quote(targets[0].strip())
    say("next:")
    say(escape(f"  compatbench {run} {words}".rstrip()))
    say(escape(f"  compatbench evaluate {modules} --target {first} {words}".rstrip()))
