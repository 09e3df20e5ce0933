"""What ``compatbench evaluate`` and ``module port``, ``import`` and ``export`` print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import print_facts, print_frame, print_table, say, write_module
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import kind_of, require_new

if TYPE_CHECKING:
    from compatbench.results.evaluation import Evaluation


def evaluate(call: Call) -> None:
    """Shows a module's accuracies beside zero-shot, and the verdict."""
    evaluation = call()
    if not call.prints_json(evaluation):
        _print_evaluation(evaluation)


def port(call: Call) -> None:
    """Writes the ported module, and says how it is evaluated."""
    module, backbone = call.arguments["module"], call.arguments["backbone"]
    ported = call()
    place = re.sub(r"[^\w.-]+", "-", ported.about["source"])
    path = call.shell["out"] or Path(f"{module.stem}-for-{place}.safetensors")
    write_module(ported, path, f", with {ported.about['ported']['transfer']}")
    say(escape(f"  compatbench evaluate {path} --target {backbone}"))


def import_module(call: Call) -> None:
    """Writes the imported module; or shows a file, or the formats, if no module is asked for."""
    if call.shell["inspect"] is not None:
        _print_inspection(call)
        return
    if call.arguments["format"] is None:
        from compatbench import formats

        if call.prints_json(table := formats()):
            return
        print_frame(table)
        say("'compatbench module import --inspect FILE' says of which format a file is")
        return
    wanted = {"FILE": "file", "--task": "task", "--source": "source"}
    if asked := [name for name, parameter in wanted.items() if not call.arguments[parameter]]:
        raise CompatbenchError(
            f"import needs {', '.join(asked)}; 'compatbench module import --inspect FILE' shows "
            "what a file needs"
        )
    module = call()
    facts = module.about["imported"]
    task = call.arguments["task"]
    path = call.shell["out"] or Path(f"{facts['format']}-{task}.safetensors")
    write_module(module, path)
    print_facts({name: value for name, value in facts.items() if name != "sha256"})
    say(escape(f"  compatbench evaluate {path} --target NEW_MODEL"))


def export_module(call: Call) -> None:
    """Says what was written, and what the format does not hold."""
    file = call.arguments["file"]
    if kind_of(file, follow=True) != "folder":
        require_new(file, "give another FILE")
    exported = call()
    for path in exported.files:
        say(escape(f"wrote {path}"))
    if exported.not_stored:
        settings = ", ".join(f"{name} {value:g}" for name, value in exported.not_stored.items())
        say(f"not in the file, to be set where it is used: {settings}")


def _print_evaluation(evaluation: Evaluation) -> None:
    from compatbench.data.cards.shots import count_shots
    from compatbench.tables.numbers import percent, signed

    fitted, source, target = evaluation.fitted, evaluation.source, evaluation.target
    through = "" if evaluation.transfer == "copied" else f", through {evaluation.transfer}"
    draw = f"imported for {fitted.task}"
    if fitted.shots is not None:
        draw = f"{count_shots(fitted.shots)} of {fitted.task}, seed {fitted.seed}"
    if fitted.ported is not None:
        draw += ", ported from {from} with {transfer}".format_map(fitted.ported)
    say(escape(f"{fitted.method}, {draw}{through}"))
    how = "" if evaluation.precision == "fp32" else f" in {evaluation.precision}"
    images = f"{evaluation.images:,} images of {evaluation.test_set}"
    say(escape(f"tested{how} on {images}; top-1 in percent"))
    columns = ["", f"{fitted.source} (source)", evaluation.backbone]
    sides = [source, target]
    rows = [
        ("with the module", *(percent(side and side.accuracy) for side in sides)),
        ("its zero-shot", *(percent(side and side.zero_shot_accuracy) for side in sides)),
        ("gain", *(signed(side and side.gain) for side in sides)),
    ]
    print_table(columns, rows, right=columns[1:])
    if target is None:
        say(f"[yellow]not transferable[/]: {escape(evaluation.reason)}")
        return
    verdict = {
        "helps": f"[green]still helps[/]: {signed(target.gain)} over zero-shot",
        "no help": f"is [yellow]no better than zero-shot[/] on {escape(evaluation.backbone)}",
        "harms": f"is [yellow]worse than zero-shot[/] on {escape(evaluation.backbone)}",
    }[evaluation.verdict]
    say(f"The module {verdict}.")
    if source is None:
        say(f"{escape(fitted.source)} is not here, so flips and H are not known.")
    else:
        lost, gained = percent(evaluation.negative_flips), percent(evaluation.positive_flips)
        say(
            f"{lost} % of the images were right before and are wrong now, {gained} % the reverse; "
            f"H is {percent(evaluation.h)}."
        )


def _print_inspection(call: Call) -> None:
    from compatbench import inspect_checkpoint

    checkpoint = inspect_checkpoint(call.shell["inspect"])
    if call.prints_json(checkpoint):
        return
    kind = " or ".join(checkpoint.formats) or "not recognised"
    say(escape(f"{checkpoint.path}: format {kind}"))
    shown = list(checkpoint.tensors.items())[:40]
    rows = [(name, " × ".join(map(str, shape)), kind) for name, (shape, kind) in shown]
    print_table(["tensor", "shape", "type"], rows)
    if len(checkpoint.tensors) > len(shown):
        say(f"and {len(checkpoint.tensors) - len(shown)} more")
    print_facts(dict(list(checkpoint.values.items())[:20]))
    for name, why in checkpoint.needs.items():
        say(escape(f"to be given: --set {name}=NUMBER ({why})"))
