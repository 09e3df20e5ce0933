"""``evaluate``, and ``module import``, ``export`` and ``port``."""

import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from compatbench.cli.completion import (
    complete_backbones,
    complete_tasks,
    complete_transfers,
)
from compatbench.cli.groups import OWNERS, app, module
from compatbench.cli.output import (
    print_facts,
    print_frame,
    print_json,
    print_table,
    say,
    show,
    write_module,
)
from compatbench.cli.shared_options import (
    AsJson,
    Cards,
    DataRoot,
    Device,
    MethodFile,
    Offline,
    PrecisionName,
    Target,
    TrustPickle,
    Verbose,
    read_settings,
)
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import kind_of, require_new

if TYPE_CHECKING:
    from compatbench.results.evaluation import Evaluation

MOST_TENSORS = 40  # more tensors of a checkpoint are not shown
MOST_VALUES = 20  # more settings of a checkpoint are not shown
MODULE_FILE = (
    "A module: its file, which 'run' leaves in 'runs/modules/' and 'module import' writes, or "
    "'hf://OWNER/NAME'"
)
CLASSES = (
    "a file with the names of its classes in its order, one on each line; or 'base' or 'new', the "
    "halves of base-to-new generalisation. 'all' uses prompts that were trained on the first "
    "classes for all classes."
)


@app.command("evaluate", rich_help_panel=OWNERS)
def evaluate(
    module: Annotated[
        list[Path],
        typer.Argument(
            help=f"{MODULE_FILE}; with '--source', a checkpoint of other code. It may be several.",
        ),
    ],
    target: Target,
    task: Annotated[
        str | None,
        typer.Option(
            help="The test set: the module's task, which is the default, a variant of it, or "
            "another with the same class names, in any order.",
            autocompletion=complete_tasks,
        ),
    ] = None,
    transfer: Annotated[
        str,
        typer.Option(
            help="How the module reaches the new model (see 'list transfers'): 'copied', or "
            "'words', which rotates the new model's embedding space by words alone. With the "
            "'words-*.safetensors' that 'run' leaves beside its modules, 'words' does not need the "
            "source model.",
            autocompletion=complete_transfers,
        ),
    ] = "copied",
    methods: MethodFile = None,
    device: Device = "auto",
    precision: Annotated[
        PrecisionName, typer.Option(help="Number format of the frozen towers, as for 'run'.")
    ] = "fp32",
    source: Annotated[
        str | None,
        typer.Option(
            help="For a checkpoint of other code: the model that it was trained on. The task is "
            "then the one that it was trained for, or a variant.",
            autocompletion=complete_backbones,
        ),
    ] = None,
    format: Annotated[
        str, typer.Option(help="For a checkpoint: its format, as for 'module import'.")
    ] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="For a checkpoint: settings that it does not contain, such as 'alpha=1'.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            "--class-names",
            help="For a checkpoint: the classes that it knows, as for 'module import'.",
        ),
    ] = None,
    data_root: DataRoot = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
    offline: Offline = False,
    trust_pickle: TrustPickle = False,
    cards: Cards = None,
) -> None:
    """Show whether a module survives a new model; nothing is trained.

    Prints the verdict, the gain over zero-shot, and the next command. With '--verbose' also the
    accuracies on both models, and the share of images that were right before and are wrong now.
    """
    values = read_settings(settings)
    from compatbench.engine.request import check_names

    check_names(tasks=task, transfers=transfer, backbones=[target, source])
    import compatbench

    evaluations = []
    for file in module:
        evaluation = compatbench.evaluate(
            file,
            target,
            task,
            transfer=transfer,
            methods=methods,
            device=device,
            precision=precision,
            source=source,
            format=format,
            settings=values,
            classes=classes,
        )
        evaluations.append(evaluation)
        if as_json:
            continue
        if len(module) > 1:
            say(escape(f"[{len(evaluations)} of {len(module)}] {file}"))
        show(str(evaluation))
        _print_doubts(evaluation)
        if verbose:
            _print_evaluation(evaluation)
    if as_json:
        print_json(evaluations[0] if len(module) == 1 else evaluations)


@module.command("import")
def import_module(
    format: Annotated[
        str | None,
        typer.Argument(
            help="A format, 'auto' (recognised by the contents), or the path of a format file "
            "('./mine.py'), which is run as code."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Argument(help="The checkpoint, or the folder that its authors' code made."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="The task that it was trained for; its images need not be here.",
            autocompletion=complete_tasks,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="The model that it was trained on (see 'list backbones').",
            autocompletion=complete_backbones,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Settings that the file does not contain, such as 'alpha=1'.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            "--class-names",
            help=f"If it has other classes than the task, or another order: {CLASSES}",
        ),
    ] = None,
    methods: MethodFile = None,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="The module to write; by default FORMAT-TASK.safetensors in this folder."
        ),
    ] = None,
    inspect: Annotated[
        Path | None,
        typer.Option(
            help="Show the contents of this file, its format, and the settings that it needs."
        ),
    ] = None,
    as_json: AsJson = False,
    offline: Offline = False,
    cards: Cards = None,
) -> None:
    """Convert a checkpoint of other code to a module that 'evaluate' takes.

    Nothing in the file is run. If it has token embeddings or text features, they are used to verify
    task and source.

    Without arguments the command lists the formats. For example: compatbench module import coop
    output/seed1 --task dtd --source vit-b16-openai
    """
    values = read_settings(settings)
    if inspect is not None:
        _print_inspection(inspect, as_json)
        return
    if format is None:
        _print_formats(as_json)
        return
    required = {"FILE": file, "--task": task, "--source": source}
    absent = [option for option, value in required.items() if not value]
    if file is None or task is None or source is None or absent:
        raise CompatbenchError(
            f"import needs {', '.join(absent)}; 'compatbench module import --inspect FILE' shows "
            "what a file needs"
        )
    from compatbench.engine.request import check_names

    check_names(tasks=task, backbones=[source])
    import compatbench

    imported = compatbench.import_module(
        format,
        file,
        task,
        source,
        settings=values,
        classes=classes,
        methods=methods,
        device=device,
    )
    facts = imported.about["imported"]
    path = out or Path(f"{facts['format']}-{task}.safetensors")
    write_module(imported, path)
    shown = dict(facts)
    for name in ("sha256", "undecided", "recorded"):  # the notes say what is undecided
        shown.pop(name, None)
    print_facts(shown)
    say(escape(f"  compatbench evaluate {path} --target NEW_MODEL"))


@module.command("export")
def export_module(
    format: Annotated[str, typer.Argument(help="The format; 'module import' lists them.")],
    module: Annotated[Path, typer.Argument(help=f"{MODULE_FILE}.")],
    file: Annotated[
        Path, typer.Argument(help="The file to write; for formats of several files, the folder.")
    ],
    dtype: Annotated[
        str | None,
        typer.Option(
            help="'float16', 'bfloat16' or 'float32'; by default that of the file it was imported "
            "from, or what the format's own code uses."
        ),
    ] = None,
) -> None:
    """Write a module as a checkpoint for other code."""
    if kind_of(file, follow=True) != "folder":
        require_new(file, "give another FILE")
    import compatbench

    exported = compatbench.export_module(format, module, file, dtype=dtype)
    for path in exported.files:
        say(escape(f"wrote {path}"))
    if exported.not_stored:
        settings = ", ".join(f"{name} {value:g}" for name, value in exported.not_stored.items())
        say(f"not in the file, to be set where it is used: {settings}")


@module.command("port")
def port(
    module: Annotated[Path, typer.Argument(help=f"{MODULE_FILE}.")],
    target: Target,
    transfer: Annotated[
        str | None,
        typer.Option(
            help="'words', 'words+raw', or 'copied', which changes nothing; by default words for "
            "methods that act in the embedding space, and copied for others.",
            autocompletion=complete_transfers,
        ),
    ] = None,
    methods: MethodFile = None,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; by default FILE-for-MODEL in this folder."),
    ] = None,
    offline: Offline = False,
    cards: Cards = None,
) -> None:
    """Write a module for a new model, where it needs no transfer; nothing is trained.

    Tensors in the embedding space's coordinates (keys of a cache, a probe, a residual on class
    weights) are rotated as the transfer 'words' rotates the model; the others are unchanged. It is
    an error if the result does not give the transfer's logits.
    """
    from compatbench.engine.request import check_names

    check_names(transfers=transfer, backbones=[target])
    import compatbench

    ported = compatbench.port(module, target, transfer=transfer, methods=methods, device=device)
    place = re.sub(r"[^\w.-]+", "-", ported.about["source"])
    path = out or Path(f"{module.stem}-for-{place}.safetensors")
    write_module(ported, path, f", with {ported.about['ported']['transfer']}")
    say(escape(f"  compatbench evaluate {path} --target {target}"))


def _print_evaluation(evaluation: "Evaluation") -> None:
    from compatbench.data.cards.shots import count_shots
    from compatbench.tables.numbers import percent, signed

    fitted = evaluation.fitted
    source = evaluation.source
    target = evaluation.target
    through = ""
    if evaluation.transfer != "copied":
        through = f", through {evaluation.transfer}"
    draw = f"imported for {fitted.task}"
    if fitted.shots is not None:
        draw = f"{count_shots(fitted.shots)} of {fitted.task}, seed {fitted.seed}"
    if fitted.ported is not None:
        draw += ", ported from {from} with {transfer}".format_map(fitted.ported)
    say(escape(f"{fitted.method}, {draw}{through}"))
    precision = ""
    if evaluation.precision != "fp32":
        precision = f" in {evaluation.precision}"
    images = f"{evaluation.images:,} images of {evaluation.test_set}"
    say(escape(f"tested{precision} on {images}; top-1 in percent"))
    columns = ["", f"{fitted.source} (source)", evaluation.backbone]
    sides = [source, target]
    rows = [
        ("with the module", *(percent(side and side.accuracy) for side in sides)),
        ("its zero-shot", *(percent(side and side.zero_shot_accuracy) for side in sides)),
        ("gain", *(signed(side and side.gain) for side in sides)),
    ]
    print_table(columns, rows, right=columns[1:])
    if target is None:
        return
    if source is None:
        say(f"{escape(fitted.source)} is not here, so flips and H are not known.")
        return
    lost = percent(evaluation.negative_flips)
    gained = percent(evaluation.positive_flips)
    say(
        f"{lost} % of the images were right before and are wrong now, {gained} % the reverse; "
        f"H is {percent(evaluation.h)}."
    )


def _print_doubts(evaluation: "Evaluation") -> None:
    """Print how an imported file was read, and that it does not work on its own model."""
    imported = evaluation.fitted.imported
    effect = evaluation.source_effect
    if imported is None:
        return
    for reading in imported.get("readings", {}).values():
        say(escape(reading["note"]))
    if effect is None or effect.sign != -1:
        return
    say(
        "[red]The module is significantly worse than zero-shot on its own source[/]: check the "
        "order of its classes (--class-names FILE), the source, and the settings that the file "
        "does not contain."
    )


def _print_formats(as_json: bool) -> None:
    import compatbench

    formats = compatbench.formats()
    if as_json:
        print_json(formats)
        return
    print_frame(formats)
    say("'compatbench module import --inspect FILE' shows the format of a file")


def _print_inspection(file: Path, as_json: bool) -> None:
    import compatbench

    checkpoint = compatbench.inspect_checkpoint(file)
    if as_json:
        print_json(checkpoint)
        return
    kind = " or ".join(checkpoint.formats) or "not recognised"
    say(escape(f"{checkpoint.path}: format {kind}"))
    rows = []
    for name, (shape, dtype) in islice(checkpoint.tensors.items(), MOST_TENSORS):
        rows.append((name, " × ".join(map(str, shape)), dtype))
    print_table(["tensor", "shape", "type"], rows)
    if len(checkpoint.tensors) > len(rows):
        say(f"and {len(checkpoint.tensors) - len(rows)} more")
    print_facts(dict(islice(checkpoint.values.items(), MOST_VALUES)))
    for name, why in checkpoint.needs.items():
        say(escape(f"to be given: --set {name}=NUMBER ({why})"))
