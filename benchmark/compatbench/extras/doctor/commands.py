"""What ``compatbench store doctor`` prints."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd
from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import MARKS, print_facts, print_frame, say

COLUMNS = ["task", "backbone", "metric", "measured"]
COLUMNS += ["published", "within", "source", "verdict", "reason"]


def doctor(call: Call) -> int:
    """Shows every part with its state and the fix, and the machine; 1 if anything is wrong."""
    diagnosis = call()
    for part in (*diagnosis.tasks, *diagnosis.backbones):
        say(f"{MARKS[part.state]} [bold]{escape(part.name)}[/] ")
        print_facts({k: v for k, v in asdict(part).items() if k not in ("name", "state")})
    say("[bold]Machine[/]")
    print_facts(diagnosis.machine)
    if call.arguments["verify"]:
        say("[bold]Zero-shot[/], top-1 or mean per-class recall in percent")
        if diagnosis.comparisons:
            figures = pd.DataFrame(diagnosis.comparisons).reindex(columns=COLUMNS)
            print_frame(figures.round(2), whole=160)
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
