"""The commands for one module: ``compatbench evaluate``, ``port``, ``import`` and ``export``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from compatbench.cli import options
from compatbench.cli.output import (
    console,
    print_facts,
    print_frame,
    print_json,
    print_table,
    say,
    write_module,
)
from compatbench.cli.run import stoppable
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import kind_of, require_new

if TYPE_CHECKING:
    from compatbench.engine.single_module import Evaluation

Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE")]


def evaluate(
    module: Path,
    backbone: Annotated[str, typer.Option(autocompletion=options.complete_backbones)],
    task: str | None = None,
    methods: str | None = None,
    transfer: str = "copied",
    source: Annotated[str | None, typer.Option(autocompletion=options.complete_backbones)] = None,
    format: str = "auto",
    set_: Set = None,
    classes: str | None = None,
    gate: bool = False,
    data_root: list[str] | None = None,
    device: str = "auto",
    precision: options.Precision = "fp32",
    as_json: bool = False,
    offline: bool = False,
    trust_pickle: bool = False,
) -> None:
    """Show whether a saved module survives a new model; nothing is trained.

    Shows its accuracy there and on its source, each beside zero-shot, and the share of images
    that were right before and are wrong now.

    Args:
        module: A module that 'run' wrote to runs/modules/, or hf://OWNER/NAME; or with --source,
            a checkpoint of other code, as for 'import'.
        backbone: The new model: a name of 'list backbones', or MODEL/TAG of open_clip,
            MODEL@FILE, local-dir:FOLDER, hf:FOLDER.
        task: The test set: the module's task, which is the default, or a variant of it.
        methods: The method's file, if it is not among 'list methods'; it is run as code.
        transfer: How the module reaches the new model: 'copied', or 'words', which rotates the
            new model's joint space by words alone. With the words-*.safetensors that 'run'
            leaves beside its modules, 'words' does not need the source model.
        source: Of a checkpoint of other code: the model that it was trained on. --task is then
            the task that it was trained for, or a variant.
        format: Of a checkpoint: its format, as for 'import'.
        set_: Of a checkpoint: a setting that it does not hold, such as 'alpha=1'; may be repeated.
        classes: Of a checkpoint: the classes that it knows, as for 'import'.
        gate: Use the new model's zero-shot in place of the module where 'predict' expects harm,
            from the task's training images without their labels: the transfer 'gated', or with
            'words' 'gated-words'.
        precision: Number format of the frozen towers, as for 'run'.
    """
    import compatbench as api

    settings = read_settings(set_)
    found = api.evaluate(
        module,
        backbone,
        task,
        transfer=transfer,
        methods=methods,
        device=device,
        precision=precision,
        source=source,
        format=format,
        settings=settings,
        classes=classes,
        gate=gate,
    )
    if as_json:
        print_json(found.as_dict())
    else:
        _print_evaluation(found)


def port(
    module: Path,
    to: Annotated[str, typer.Option(autocompletion=options.complete_backbones)],
    with_: Annotated[str | None, typer.Option("--with", metavar="TRANSFER")] = None,
    methods: str | None = None,
    from_: Annotated[
        str | None, typer.Option("--from", autocompletion=options.complete_backbones)
    ] = None,
    by: str | None = None,
    images: Path | None = None,
    pairs: Annotated[tuple[Path, Path] | None, typer.Option(metavar="OLD.npy NEW.npy")] = None,
    column: str | None = None,
    out: Path | None = None,
    device: str = "auto",
    offline: bool = False,
) -> None:
    """Write a module, or a stored index of image embeddings, for a new model.

    In a module, tensors in the joint space's coordinates (keys of a cache, a probe, a residual on
    class weights) are rotated as the transfer 'words' rotates the model; the others are unchanged,
    and 'evaluate' then needs no transfer. It is an error if the result does not give the transfer's
    logits.

    Of an index (.npy, .parquet or a flat .faiss), each vector is mapped to the new model's space,
    block by block, in memory that does not grow with it. Type, order, lengths, ids and other
    columns stay. For example:
    compatbench port photos.npy --from vit-b16-openai --to eva02-b16 --by words

    Args:
        module: A module that 'run' wrote to runs/modules/, or 'import' wrote, or
            hf://OWNER/NAME; or an index.
        to: The new model, as '--backbone' of 'evaluate'.
        with_: 'words', 'words+raw', or 'copied', which changes nothing; by default words for
            methods that act in the joint space, and copied for others.
        methods: The method's file, if it is not among 'list methods'; it is run as code.
        from_: Of an index: the model that made it.
        by: Of an index: 'words' (needs nothing else), 'images', 'low-rank' or 'ridge' (need
            --images or --pairs), or 'copied'; by default ridge with images and words without.
        images: Of an index: a folder of images, which both models encode.
        pairs: Of an index, in place of --images: the vectors of the same images on both models,
            in the same rows.
        column: Of a parquet file: the column of the vectors, where there are several.
        out: The file to write; by default FILE-for-MODEL in this folder.
    """
    import compatbench as api
    from compatbench.cli.indexes import load_pairs, print_ported
    from compatbench.extras.indexes.vector_files import is_vector_file

    of_indexes = {"--from": from_, "--by": by, "--images": images, "--pairs": pairs}
    if is_vector_file(module):
        given = {"--with": with_, "--methods": methods}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise CompatbenchError(f"{wrong[0]} is for modules, and {module} is an index")
        if from_ is None:
            raise CompatbenchError(f"{module} is an index: give the model that made it with --from")
        if images is not None and pairs is not None:
            raise CompatbenchError("--images and --pairs: give one of the two")
        with stoppable("no index was written"), console.status("") as status:
            ported = api.port_index(
                module,
                from_,
                to,
                way=by,
                images=images if pairs is None else load_pairs(pairs),
                out=out,
                column=column,
                device=device,
                progress=status.update,
            )
        print_ported(ported)
        return
    if wrong := [n for n, value in {**of_indexes, "--column": column}.items() if value is not None]:
        raise CompatbenchError(
            f"{wrong[0]} is for indexes, and {module} is none (.npy, .parquet, flat .faiss)"
        )
    moved = api.port(module, to, transfer=with_, methods=methods, device=device)
    place = re.sub(r"[^\w.-]+", "-", moved.about["source"])
    path = out or Path(f"{module.stem}-for-{place}.safetensors")
    write_module(moved, path, f", with {moved.about['ported']['transfer']}")
    say(escape(f"  compatbench evaluate {path} --backbone {to}"))


def import_(
    format: Annotated[str | None, typer.Argument()] = None,
    file: Annotated[Path | None, typer.Argument()] = None,
    task: str | None = None,
    source: str | None = None,
    set_: Set = None,
    classes: str | None = None,
    out: Path | None = None,
    inspect: Path | None = None,
    device: str = "auto",
    offline: bool = False,
) -> None:
    """Convert a checkpoint of other code to a module that 'evaluate' takes.

    Nothing in the file is run. If it has token embeddings, they are used to verify task and source.
    Without arguments the command lists the formats. For example:
    compatbench import coop output/seed1 --task dtd --source vit-b16-openai

    Args:
        format: A format, 'auto' (recognised by the contents), or the path of a format
            file ('./mine.py'), which is run as code.
        file: The checkpoint, or the folder that its authors' code made.
        task: The task that it was trained for; its images need not be here.
        source: The model that it was trained on (see 'compatbench list backbones').
        set_: A setting that the file does not hold, such as 'alpha=1'; may be repeated.
        classes: If it knows only some of the task's classes: 'base' or 'new', the halves of
            base-to-new generalisation, or a file of names. 'all' uses prompts that were trained on
            the first classes for all classes.
        out: The module to write; by default FORMAT-TASK.safetensors in this folder.
        inspect: Show the contents of this file, its format, and the settings that it needs.
    """
    import compatbench as api

    if inspect is not None:
        _print_inspection(inspect)
        return
    if format is None:
        print_frame(api.formats())
        say("'compatbench import --inspect FILE' says of which format a file is")
        return
    if file is None or task is None or source is None:
        asked = {"FILE": file, "--task": task, "--source": source}
        names = ", ".join(name for name, value in asked.items() if value is None)
        raise CompatbenchError(
            f"import needs {names}; 'compatbench import --inspect FILE' shows what a file needs"
        )
    settings = read_settings(set_)
    module = api.import_module(
        format, file, task, source, settings=settings, classes=classes, device=device
    )
    imported = module.about["imported"]
    path = out or Path(f"{imported['format']}-{task}.safetensors")
    write_module(module, path)
    print_facts({k: v for k, v in imported.items() if k != "sha256"})
    say(escape(f"  compatbench evaluate {path} --backbone NEW_MODEL"))


def export(format: str, module: Path, file: Path, dtype: str | None = None) -> None:
    """Write a module as a checkpoint for other code.

    Args:
        format: The format; 'compatbench import' lists them.
        module: A module that 'run' wrote to runs/modules/, or 'import' wrote.
        file: The file to write; for formats of several files, the folder.
        dtype: 'float16', 'bfloat16' or 'float32'; by default that of the file it was imported
            from, or what the format's own code uses.
    """
    import compatbench as api

    if kind_of(file, follow=True) != "folder":
        require_new(file, "give another FILE")
    found = api.export_module(format, module, file, dtype=dtype)
    for path in found.files:
        say(escape(f"wrote {path}"))
    if found.not_stored:
        say(
            "not in the file, to be set where it is used: "
            + ", ".join(f"{k} {v:g}" for k, v in found.not_stored.items())
        )


def read_settings(given: list[str] | None) -> dict[str, Any]:
    """Settings of the command line, ``NAME=VALUE``; a value that is JSON is read as such."""
    settings: dict[str, Any] = {}
    for one in given or ():
        name, equals, text = one.partition("=")
        if not name.strip() or not equals:
            raise CompatbenchError(f"--set '{one}': write it as NAME=VALUE, such as alpha=1")
        try:
            settings[name.strip()] = json.loads(text)
        except ValueError:
            settings[name.strip()] = text
    return settings


def _print_evaluation(found: Evaluation) -> None:
    from compatbench.data.cards.shots import count_shots
    from compatbench.tables.numbers import percent, signed

    fitted, source, target = found.fitted, found.source, found.target
    through = "" if found.transfer == "copied" else f", through {found.transfer}"
    draw = f"imported for {fitted.task}"
    if fitted.shots is not None:
        draw = f"{count_shots(fitted.shots)} of {fitted.task}, seed {fitted.seed}"
    if fitted.ported is not None:
        draw += ", ported from {from} with {transfer}".format_map(fitted.ported)
    say(escape(f"{fitted.method}, {draw}{through}"))
    how = "" if found.precision == "fp32" else f" in {found.precision}"
    say(escape(f"tested{how} on {found.images:,} images of {found.test_set}; top-1 in percent"))
    columns = ["", f"{fitted.source} (source)", found.backbone]
    sides, what = [source, target], "gated module" if found.note else "module"
    rows = [
        (f"with the {what}", *(percent(side and side.accuracy) for side in sides)),
        ("its zero-shot", *(percent(side and side.zero_shot_accuracy) for side in sides)),
        ("gain", *(signed(side and side.gain) for side in sides)),
    ]
    print_table(columns, rows, right=columns[1:])
    if found.note:
        say(escape(f"{found.note}."))
    if target is None:
        say(f"[yellow]not transferable[/]: {escape(found.reason)}")
        return
    verdict = {
        "helps": f"[green]still helps[/]: {signed(target.gain)} over zero-shot",
        "no help": f"is [yellow]no better than zero-shot[/] on {escape(found.backbone)}",
        "harms": f"is [yellow]worse than zero-shot[/] on {escape(found.backbone)}",
    }[found.verdict]
    say(f"The {what} {verdict}.")
    if source is None:
        say(f"{escape(fitted.source)} is not here, so flips and H are not known.")
    else:
        say(
            f"{percent(found.negative_flips)} % of the images were right before and are wrong "
            f"now, {percent(found.positive_flips)} % the reverse; H is {percent(found.h)}."
        )


def _print_inspection(file: Path) -> None:
    import compatbench as api

    found = api.inspect_checkpoint(file)
    kind = " or ".join(found.formats) or "not recognised"
    say(escape(f"{found.path}: format {kind}"))
    shown = list(found.tensors.items())[:40]
    rows = [(name, " × ".join(map(str, shape)), kind) for name, (shape, kind) in shown]
    print_table(["tensor", "shape", "type"], rows)
    if len(found.tensors) > len(shown):
        say(f"and {len(found.tensors) - len(shown)} more")
    print_facts(dict(list(found.values.items())[:20]))
    for name, why in found.needs.items():
        say(escape(f"to be given: --set {name}=NUMBER ({why})"))
