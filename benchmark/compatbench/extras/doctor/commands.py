"""What ``compatbench store doctor`` prints."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd
from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import MARKS, print_facts, print_frame, say
from compatbench.messages import count

COLUMNS = ["task", "backbone", "metric", "measured"]
COLUMNS += ["published", "within", "source", "verdict", "reason"]


def doctor(call: Call) -> int:
    """Shows what is missing or wrong with its fix, then what is here; 1 if anything is wrong.

    What a suite needs and is here is counted; what was named is shown.
    """
    diagnosis = call()
    if call.prints_json(diagnosis):
        return int(not diagnosis.ready)
    here = [part for part in (*diagnosis.tasks, *diagnosis.backbones) if part.state == "found"]
    for part in [*diagnosis.unusable, *(here if diagnosis.suite is None else ())]:
        say(f"{MARKS[part.state]} [bold]{escape(part.name)}[/] ")
        left_out = {"name", "state"} | ({"expected"} if part.state == "missing" else set())
        print_facts({k: v for k, v in asdict(part).items() if k not in left_out})
    if diagnosis.suite is not None:
        backbones = sum(part in diagnosis.backbones for part in here)
        tasks = count(len(here) - backbones, "task")
        say(f"{MARKS['found']} {tasks} and {count(backbones, 'backbone')}")
    say("[bold]Machine[/]")
    print_facts(diagnosis.machine)
    if call.arguments["verify"]:
        say("[bold]Zero-shot[/], top-1 or mean per-class recall in percent")
        if diagnosis.comparisons:
            figures = pd.DataFrame(diagnosis.comparisons).reindex(columns=COLUMNS)
            print_frame(figures.round(2), narrow=("reason", "metric"))
        else:
            say("  no task and backbone are both here, so nothing was run")
    what = escape(f"suite '{diagnosis.suite}'" if diagnosis.suite else "what was asked for")
    if diagnosis.ready:
        say(f"[green]Ready[/]: {what} can run here.")
        return 0
    bad, total = len(diagnosis.unusable), len(diagnosis.tasks) + len(diagnosis.backbones)
    why = f"cannot run here as it is; {bad} of {total} parts are missing or wrong"
    if not bad:
        disagreeing = f"{len(diagnosis.disagreeing)} figures disagree with what is published"
        why = f"can run, but must not be trusted yet; {disagreeing}"
    say(f"[red]Not ready[/]: {what} {why}.")
    return 1
