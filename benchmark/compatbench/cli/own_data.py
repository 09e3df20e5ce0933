"""``compatbench new-task``: a task's card from images of one's own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from compatbench.cli.output import console, print_frame, say
from compatbench.data.cards import is_card_path

MOST_CLASSES = 12  # that are shown
FIRST_METHOD = "tip_adapter"


def new_task(
    folder: Path,
    name: str | None = None,
    source: str = "mini-clip",
    target: str = "mini-eva-clip",
    shots: int | None = None,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    test_share: float = 0.5,
    template: list[str] | None = None,
    class_names: Path | None = None,
    out: Path = Path(),
    replace: bool = False,
) -> None:
    """Make a task of your own images, and a suite that asks about an upgrade on it.

    Reads class folders (with or without train/, val/ and test/ around them), a CSV with the
    columns path,label and perhaps split, tar shards of a webdataset, or parquet files of the
    Hub's kind. The images stay where they are; nothing of them is copied. Two cards and a list
    of the images are written, or nothing if something is wrong. The last lines say what to run.

    Args:
        folder: The folder of the images; or a CSV, tar or parquet file.
        name: The task's name, by default the folder's.
        source: The old model: a name of 'list backbones', or MODEL/TAG of open_clip.
        target: The new model, likewise.
        shots: Training images of every class; by default 16, or fewer where a class has fewer.
        seed: Seed of the split, where there is no test split.
        test_share: Share of each class that is then drawn for testing.
        template: A prompt with {} for the class; may be repeated. The first is the zero-shot one.
        class_names: File of natural class names, a line each, in the order of the labels.
        out: Folder for the cards and the list.
        replace: Replace cards and list of this name.
    """
    from compatbench import api

    with console.status("") as status:
        made = api.new_task(
            folder,
            name,
            source=source,
            target=target,
            shots=shots,
            seed=seed,
            test_share=test_share,
            template=template,
            class_names=class_names,
            out=out,
            replace=replace,
            progress=status.update,
        )
    frame, total = made.frame, sum(map(sum, (one.values() for one in made.images.values())))
    say(escape(f"{made.kind} in {made.folder}: {total:,} images of {len(frame)} classes"))
    checked = "all" if made.decoded == total else f"{made.decoded:,}, drawn at random,"
    say(f"{checked} were decoded; a module learns from {made.shots} of each class")
    for note in made.notes:
        say(f"[yellow]note[/]: {escape(note)}")
    print_frame(frame.head(MOST_CLASSES))
    if len(frame) > MOST_CLASSES:
        say(f"... and {len(frame) - MOST_CLASSES:,} more classes")
    say(escape(f"wrote {made.card.name}, {made.card.stem}.csv and {made.suite.name} to {out}"))
    say("next:")
    options = ["--cards", str(out)] if out.resolve() != Path.cwd() else []
    options += [word for one in (source, target) if is_card_path(one) for word in ("--cards", one)]
    options += ["--data-root", made.data_root] if made.data_root else []
    trial, words = f"{made.task.name}-trial", shlex.join(options)
    run = f"run --suite {made.suite.stem} --methods {FIRST_METHOD} --seeds 1 --out {trial}"
    modules, backbone = f"{trial}/runs/modules/*/*.safetensors", shlex.quote(target)
    say(escape(f"  compatbench {run} {words}".rstrip()))
    say(escape(f"  compatbench evaluate {modules} --backbone {backbone} {words}".rstrip()))
