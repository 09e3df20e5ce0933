"""What ``compatbench doctor`` prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import MARKS, print_facts, say

if TYPE_CHECKING:
    from compatbench.extras.doctor.published_zero_shot import Comparison

STYLES = {"not compared": "dim", "agrees": "green", "disagrees": "red", "differs": "yellow"}


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
        for comparison in diagnosis.comparisons:
            say(f"  {_describe_comparison(comparison)}")
        if not diagnosis.comparisons:
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


def _describe_comparison(comparison: Comparison) -> str:
    where = f"{escape(comparison.task)} on {escape(comparison.backbone)}"
    if comparison.published is None:
        return f"{where}: {comparison.measured:.2f}; {comparison.reason}"
    metric = "top-1" if comparison.metric == "top1" else "recall"
    mark = f"[{STYLES[comparison.verdict]}]{comparison.verdict}[/]"
    limit = "" if comparison.verdict == "not compared" else f" (within {comparison.within:g})"
    published = f"published {comparison.published:.2f} by {comparison.source}"
    measured = f"{metric} {comparison.measured:.2f}"
    return f"{where}: {measured}, {published}: {mark}{limit}; {comparison.reason}"
