"""What ``run``, ``plan`` and ``maintain tune`` print, and how they are followed and stopped."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import console, error_console, print_frame, print_table, say
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
    """Shows the cells of every method, what they cost, and what is missing."""
    with console.status("reading the suite and the methods"):
        from compatbench import Compute
        from compatbench.backbone import memory_budget

        compute = Compute(**call.shell["compute"])
        device = compute.list_devices()[0]
        planned = call()
        workers = compute.count_workers()
    frame = planned.frame
    if call.prints_json(frame):
        return
    about = [format_seconds(each / workers) if each else "" for each in frame["seconds"]]
    hidden = ["transfer"] if set(frame["transfer"]) <= {"copied"} else []
    hidden += [] if frame["missing"].any() else ["missing"]
    print_frame(frame.assign(about=about).drop(columns=["seconds", *hidden]), right=["about"])
    if planned.to_do or planned.missing:
        with memory_budget(compute.memory_budget):
            _print_costs(planned, device, compute.count_decoders())
    if call.shell["device_model"]:
        _print_hours(planned, call.shell["device_model"])
    say_plan(planned, workers)
    if planned.missing:
        doctor = f"compatbench store doctor --suite {call.arguments['suite']}"
        say(escape(f"'{doctor}' shows more, and what to do"))


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
        many = f"{workers} worker{'s' if workers > 1 else ''}"
        parts.append(f"about {format_seconds(plan.seconds / workers)} with {many}")
    say(", ".join(parts), to)


def _print_hours(plan: Plan, name: str) -> None:
    """Prints the hours of all cells on a model of a GPU, and the rates that they are from."""
    from compatbench.engine.gpu_hours import find_device_model

    precision = plan.suite.training.precision
    print_frame(plan.hours(name).round(2))
    rates = find_device_model(name).describe(precision)
    print_table([f"{name}, {precision}", "", "how"], rates)


def _print_costs(plan: Plan, device: str, decoders: int) -> None:
    """Prints images, disk and memory of the whole selection, what is missing included."""
    from compatbench.engine.costs import RATES
    from compatbench.files.sizes import format_bytes

    kind = device.partition(":")[0]
    costs, rate = plan.costs, RATES.get(kind, RATES["cuda"])
    speed = f"at {rate / 1e9:,.0f} GFLOP/s, as {kind} has about"
    memory = "GPU memory" if device.startswith("cuda") else "memory"
    rows = [
        ("optimiser steps", f"{costs.steps:,}", "counted: recipes, per dataset and shots"),
        ("images encoded", f"{costs.images:,}", "counted: splits, draws and views"),
        ("encoding", format_seconds(costs.encode_flops / rate), f"counted; {speed}"),
        ("features on disk", format_bytes(costs.features_bytes), "counted: float32"),
        (
            "image tokens on disk",
            format_bytes(costs.tokens_bytes),
            "counted: what methods take in place of features; less with --cache-limit",
        ),
        ("predictions", format_bytes(costs.predictions_bytes), "counted: in runs/, beside modules"),
        (
            f"{memory} of a worker",
            format_bytes(costs.memory_bytes),
            "counted: libraries, weights, features, and a batch of images or a step of training: "
            + costs.step.describe(costs.room_bytes),
        ),
        ("GPUs that hold a worker", *_describe_cards(costs.beyond)),
    ]
    if decoders > 1:
        size, how = format_bytes(decoders * costs.decoder_bytes), "with images ready in /dev/shm"
        rows.append((f"memory of its {decoders} decoders", size, f"counted: processes, {how}"))
    if plan.suite.retrained:
        cells = f"of {len(plan.matrix.places):,} cells: modules retrained, to compare with"
        rows.insert(0, ("fits on targets", f"{plan.matrix.retrained:,}", cells))
    print_table(["cost of all cells", "", "how"], rows)
    if costs.unknown:
        names = ", ".join(costs.unknown)
        say(f"not counted: {names}, whose sizes are not known")


def _describe_cards(beyond: dict[int, list[str]]) -> tuple[str, str]:
    """The least card that holds all methods in micro-batches, and what smaller ones do not."""
    least = next((f"{card} GB" for card, methods in beyond.items() if not methods), "none")
    short = [f"{card} GB: not {', '.join(names)}" for card, names in beyond.items() if names]
    return least, "; ".join(["counted: batches of images in micro-batches", *short])


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
