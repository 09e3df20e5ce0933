"""What ``run``, ``plan`` and ``maintain tune`` print, and how they are followed and stopped."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import console, error_console, print_frame, say
from compatbench.cli.stoppable import stoppable
from compatbench.messages import format_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from compatbench.engine.plan import Plan


def run(call: Call) -> int:
    """Follows the cells, and shows the ranking of what was asked for."""
    with stoppable():
        from compatbench.runs import read_page
        from compatbench.tables.terminal_ranking import list_rankings, print_ranking

        out = call.arguments["out"]
        results, plan = _follow(call, out)
        page = read_page(plan, out).restrict(**plan.matrix.asked)
        if call.prints_json(list_rankings(page)):
            return int(bool(results.failures))
        print_ranking(console, page)
        board = f"{out / 'leaderboard.md'}, " if plan.suite.publish else ""
        rows = f"results in {out / 'results' / plan.suite.name}/, "
        wrote = "a trial: wrote " if plan.trial else f"wrote {board}{rows}"
        say(escape(f"{wrote}modules in {out / 'runs'}/modules/"))
        if not results.failures:
            return 0
        tried = len(plan.to_do) + len(plan.broken)
        count = f"{len(results.failures)} of {tried} cells failed"
        say(f"{count}; the same command tries them again")
        return 1


def _follow(call: Call, out: Path | None = None) -> tuple[Any, Plan]:
    """What a command that runs a plan gives, and the plan; says what is planned, and shows it."""
    from compatbench.runs.progress import RunProgress

    to = error_console if call.shell["as_json"] else console
    with RunProgress(to, out) as progress:

        def start(plan: Plan, workers: int) -> None:
            say_plan(plan, workers, to)
            progress.start_plan(plan, workers)

        returned = call(progress=False, on_start=start, on_event=progress.on_event)
    assert progress.plan is not None
    return returned, progress.plan


def plan(call: Call) -> None:
    """Shows the cells of every method, how long they take, and what is missing."""
    with console.status("reading the suite and the methods"):
        from compatbench import Compute

        planned = call()
        workers = Compute(**call.shell["compute"]).count_workers()
    frame = planned.frame
    if call.prints_json(frame):
        return
    about = [_format_about(seconds / workers) for seconds in frame["seconds"]]
    hidden = ["transfer"] if set(frame["transfer"]) <= {"copied"} else []
    hidden += [] if frame["missing"].any() else ["missing"]
    print_frame(frame.assign(about=about).drop(columns=["seconds", *hidden]), right=["about"])
    say_plan(planned, workers)
    if planned.missing:
        doctor = f"compatbench store doctor --suite {call.arguments['suite']}"
        say(escape(f"'{doctor}' shows more, and what to do"))


def _format_about(seconds: float) -> str:
    if math.isnan(seconds):
        return "not known"
    return format_seconds(seconds) if seconds else ""


def say_plan(plan: Plan, workers: int, to: Console = console) -> None:
    """What cannot be loaded or is not here, and why; then how much of the suite is left."""
    for name, why in plan.matrix.registry.broken.items():
        say(
            f"[yellow]left out[/] method '{escape(name)}', which cannot be loaded: {escape(why)}",
            to,
        )
    for name, why in plan.missing.test_sets.items():
        if name not in plan.missing.broken:
            say(f"[yellow]missing[/] images of {escape(name)}: {escape(why)}", to)
    for name, why in dict.fromkeys((cell.test_sets[0], cell.broken) for cell in plan.broken):
        say(f"[red]broken[/] images of {escape(name)}: {escape(why)}", to)
    for name, why in plan.missing.backbones.items():
        say(f"[yellow]missing[/] weights of {escape(name)}: {escape(why)}", to)
    left, mine, total = len(plan.to_do), len(plan.mine), plan.total
    done, what = mine - left, ""
    if plan.shard is not None:
        what = f" of {len(plan.cells):,} in this shard"
    parts = [f"[bold]{plan.suite.name}[/]: {total:,} cell{'s' if total != 1 else ''}{what}"]
    parts.append("all done" if done == total else f"{done:,} done, {left:,} to do")
    if total > mine:
        parts.append(f"{total - mine:,} without images or weights")
    if workers and done < total:
        parts += _describe_time(plan, workers)
    say(", ".join(parts), to)


def _describe_time(plan: Plan, workers: int) -> list[str]:
    """Return how long what is left takes, and the methods of which that is not known."""
    unknown = plan.unknown
    many = f"with {workers} worker{'s' if workers > 1 else ''}"
    parts = [f"about {format_seconds(plan.seconds / workers)} {many}" if plan.seconds else many]
    if unknown:
        names = ", ".join(unknown[:3])
        if len(unknown) > 3:
            names += f" and {len(unknown) - 3} more"
        parts.append(
            f"the time of {escape(names)} is not known, as none of their cells has finished"
        )
    return parts


def tune(call: Call) -> None:
    """Follows the fits, and shows every setting and what was chosen."""
    import pandas as pd
    import yaml

    with stoppable():
        from compatbench.method.registry import builtin_methods

        tunings, _ = _follow(call)
        frames = [
            tuning.frame.assign(method=tuning.method, chosen=tuning.frame.index == tuning.chosen)
            for tuning in tunings
        ]
        if call.prints_json(pd.concat(frames)):
            return
        entries: dict[str, Any] = {}
        for tuning in tunings:
            images = f"{sum(tuning.total):,} held-out images, in percent"
            say(f"[bold]{escape(tuning.method)}[/], {images}")
            frame, best = tuning.frame, tuning.chosen
            choice = ["chosen" if number == best else "" for number in frame.index]
            print_frame(frame.round({"accuracy": 1, "gain": 1, "error": 1}).assign(choice=choice))
            published = builtin_methods().get(tuning.method).Config()
            # Of its own: YAML writes what two entries share once, and names it.
            entries[tuning.method] = deepcopy(tuning.settings[best].changes(published))
        say("what 'methods' of the suite says of these settings ({}: nothing):")
        say(escape(yaml.safe_dump(entries, sort_keys=False).rstrip()))
