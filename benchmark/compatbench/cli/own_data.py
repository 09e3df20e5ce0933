"""The commands for one's own upgrade: ``new-task``, ``advise`` and ``predict``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from compatbench.cli import options
from compatbench.cli.output import (
    console,
    print_frame,
    print_json,
    print_json_text,
    print_table,
    say,
)
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
    """Make a task of your own images, and a suite that measures an upgrade on it.

    Reads class folders (with or without train/, val/ and test/ around them), a CSV with the
    columns path,label and perhaps split, tar shards of a webdataset, or parquet files of the
    Hub's kind. The images stay where they are; nothing of them is copied. Two cards and a list of
    the images are written; nothing is written if there is an error. The last lines show the next
    commands.

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
    import compatbench as api

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


def advise(
    module: Annotated[Path | None, typer.Argument()] = None,
    suite: str = "mini",
    methods: Annotated[
        str, typer.Option("--methods", "--method", autocompletion=options.complete_methods)
    ] = "all",
    tasks: str = "all",
    shots: int | None = None,
    upgrade: Annotated[str | None, typer.Option(metavar="OLD,NEW")] = None,
    out: Path = Path(),
    data_root: list[str] | None = None,
    device: str = "auto",
    as_json: bool = False,
    offline: bool = False,
    trust_pickle: bool = False,
) -> None:
    """Say whether to keep, port or retrain modules in an upgrade, and what to expect.

    From the measurements in results/, for every upgrade and method: keep a module untouched if
    it gains over zero-shot and no way without images is clearly better; port it by that way, such
    as 'words', if it is; or else retrain it, if that was measured and gains, or use zero-shot. All
    figures have 95 % intervals.

    Args:
        module: A module's file, of 'run' or 'import', to measure untouched and by 'words' on
            the targets of the suite, in place of results.
        suite: Suite with the upgrades: a name, or a YAML file such as 'new-task' makes.
        methods: Methods with results: names, globs, exclusions; with MODULE, its method's file.
        shots: By default the most that the suite has.
        upgrade: One of the suite's upgrades; by default all.
        out: The folder that has results/, as for 'run'.
    """
    import compatbench as api

    found = api.advise(
        suite,
        methods,
        module=module,
        upgrade=options.split(upgrade),
        tasks=tasks,
        shots=shots,
        out=out,
        device=device,
    )
    if as_json:
        print_json_text(found.frame.to_json(orient="records", indent=1) or "[]")
    else:
        say(escape(str(found)))


def predict(
    module: Path,
    to: Annotated[str, typer.Option(autocompletion=options.complete_backbones)],
    images: Path | None = None,
    methods: str | None = None,
    device: str = "auto",
    as_json: bool = False,
    offline: bool = False,
    trust_pickle: bool = False,
) -> None:
    """Predict what a module will gain on a new model, before anything is labelled there.

    It says what the module will gain or lose over the new model's zero-shot, with a 90 % interval,
    and advises: copy, port by words, or fall back to zero-shot. It was fitted on miniature models.

    Args:
        module: A module that 'run' wrote to runs/modules/, or 'import' wrote.
        to: The new model, as '--backbone' of 'evaluate'.
        images: A folder of images of the module's task without labels, a hundred or more. Without
            it, the models and the place of the module are all that is known.
        methods: The method's file, if it is not among 'list methods'; it is run as code.
    """
    import compatbench as api

    found = api.predict(module, to, images=images, methods=methods, device=device)
    if as_json:
        print_json(found.as_dict())
        return
    known = f"{found.images:,} images without labels" if found.images else "the models alone"
    fitted = found.fitted
    say(escape(f"{fitted.method}, {fitted.task}: {fitted.source} → {found.backbone}, from {known}"))
    rows = [(one.transfer, str(one.gain or one.reason)) for one in found.ways]
    print_table(["way", "gain over zero-shot, points (90 %)"], rows)
    say(f"Advice: {found.advice}. Fitted on miniature models; see docs/predict.md.")
