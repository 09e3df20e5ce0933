"""What there is, what is fetched, tasks of one's own: ``list``, ``store data``, ``new-task``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.markup import escape

import compatbench
from compatbench.cli.command import Call
from compatbench.cli.output import MARKS, print_facts, print_frame, say

if TYPE_CHECKING:
    import pandas as pd

NARROW = {  # what a narrow terminal leaves out, the first ones first
    "methods": ("idea", "paper"),
    "backbones": ("architecture",),
    "suites": ("title",),
    "transfers": ("paper", "title", "takes", "settings"),
}
MOST_CLASSES = 12  # of a new task that are shown
FIRST_METHOD = "tip_adapter"


def list_names(
    kind: Literal["methods", "tasks", "backbones", "suites", "transfers", "modules"],
    names: str = "all",
    out: str | Path = ".",
) -> pd.DataFrame:
    """Lists methods, tasks, backbones, suites, transfers or the modules in runs/.

    A wide terminal shows papers and ideas of the methods, too.

    Args:
        kind: what to list.
        names: names, globs, comma lists.
        out: as for ``run``.
    """
    if kind == "modules":
        return compatbench.modules(names, out)
    return compatbench.transfers() if kind == "transfers" else getattr(compatbench, kind)(names)


def show_names(call: Call) -> None:
    """Shows what there is; of modules the beginnings of keys, for a whole path is too long."""
    frame, kind = call(), call.arguments["kind"]
    if call.prints_json(frame):
        return
    if kind != "modules":
        print_frame(frame, narrow=NARROW.get(kind, ()))
        return
    files = frame["file"].map(Path)
    print_frame(frame.drop(columns="file").assign(key=[file.stem[:12] for file in files]))
    last = files.iloc[-1]
    example = last.parents[1] / "*" / f"{last.stem[:12]}*.safetensors"
    say(escape(f"the file of the last, for example: {example}"))


def new_task(call: Call) -> None:
    """Shows the classes, and the commands that come next."""
    from compatbench.data.cards import is_card_path

    made = call()
    if call.prints_json(made.frame):
        return
    source, target, out = (call.arguments[name] for name in ("source", "target", "out"))
    frame, total = made.frame, sum(sum(counts.values()) for counts in made.images.values())
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
    targets = target.split(",") if isinstance(target, str) else target
    for backbone in filter(is_card_path, (source, *targets)):
        options += ["--cards", backbone]
    options += ["--data-root", made.data_root] if made.data_root else []
    trial, words = f"{made.task.name}-trial", shlex.join(options)
    run = f"run --suite {made.suite.stem} --methods {FIRST_METHOD} --seeds 1 --out {trial}"
    modules, backbone = f"{trial}/runs/modules/*/*.safetensors", shlex.quote(targets[0].strip())
    say(escape(f"  compatbench {run} {words}".rstrip()))
    say(escape(f"  compatbench evaluate {modules} --target {backbone} {words}".rstrip()))


def fetch_data(call: Call) -> int:
    """Shows what was fetched and what was not; 1 if something is still missing."""
    fetched = call()
    for dataset in fetched:
        report = dataset.report
        say(f"{MARKS[report.state]} [bold]{escape(dataset.task)}[/] ")
        facts = {"fetched": ", ".join(dataset.files), "folder": report.folder}
        facts |= {"images": report.found, "message": report.message}
        facts |= {} if dataset.ready or dataset.problems else {"fix": report.fix}
        print_facts(facts)
        for problem in () if dataset.ready else dataset.problems:
            say(f"  [red]problem[/]: {escape(problem)}")
    return int(not all(dataset.ready for dataset in fetched))


def fetch_backbones(call: Call) -> int:
    """Shows where weights are and what was not fetched; 1 if anything was not."""
    fetched = call()
    for weights in fetched:
        say(f"{MARKS['found' if weights.file else 'missing']} [bold]{escape(weights.name)}[/] ")
        facts = {"file": weights.file, "licence": weights.licence, "problem": weights.problem}
        print_facts(facts)
    return int(not all(weights.file for weights in fetched))
