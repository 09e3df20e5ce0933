"""``run``, ``plan`` and ``maintain tune``: show a plan, and the progress of its cells."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from compatbench.cli.completion import complete_methods
from compatbench.cli.groups import READERS, app, maintain
from compatbench.cli.output import console, error_console, print_frame, print_json, say
from compatbench.cli.shared_options import (
    METHODS_HELP,
    AsJson,
    Cards,
    DataRoot,
    Device,
    Jobs,
    Methods,
    Offline,
    Out,
    PrecisionName,
    Seeds,
    Shard,
    Shots,
    Suite,
    Tasks,
    Transfers,
    TrialSettings,
    TrustPickle,
    read_seconds,
    read_settings,
    read_size,
)
from compatbench.cli.stoppable import stoppable
from compatbench.messages import format_seconds

if TYPE_CHECKING:
    from rich.console import Console

    from compatbench.engine.plan import Plan
    from compatbench.runs.progress import RunProgress

Precision = Annotated[
    PrecisionName | None,
    typer.Option(
        help="Number format of the frozen towers, by default the suite's; modules are always "
        "trained in float32. 'tf32' is float32 with the short products of NVIDIA's cards, in "
        "training, too. Another precision gives separate cells, which replace the previous rows in "
        "'results/'."
    ),
]


@app.command("run", rich_help_panel=READERS)
def run(
    suite: Suite = "mini",
    methods: Methods = "all",
    tasks: Tasks = "all",
    seeds: Seeds = None,
    shots: Shots = None,
    transfers: Transfers = None,
    out: Out = Path(),
    precision: Precision = None,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing",
            help="Leave out cells whose images or weights are missing, and run the others.",
        ),
    ] = False,
    shard: Shard = None,
    config: TrialSettings = None,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Where cells run: in processes on this machine, or on a Ray cluster."),
    ] = "local",
    device: Device = "auto",
    jobs: Jobs = None,
    jobs_per_gpu: Annotated[
        int | None,
        typer.Option(help="Workers on each GPU, instead of '--jobs'; by default 1."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each worker.")] = 1,
    decoders: Annotated[
        int | None,
        typer.Option(
            help="Processes of each worker that decode images (threads where there are few "
            "images). By default one on processors, whose backbones take longer than any image, "
            "and for GPUs the worker's share of the cores."
        ),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            help="Most memory that each tower of a worker keeps for a backward pass, and for the "
            "images that are classified at once, such as '2G'; by default half of what is free, "
            "and 1 GiB. Less is slower: batches of images run in micro-batches."
        ),
    ] = None,
    cache_limit: Annotated[
        str | None,
        typer.Option(
            help="Most disk for image features and tokens, such as '200G': those unused longest "
            "are deleted, and tokens that do not fit are computed whenever they are needed."
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            help="End an attempt at a cell that takes longer, such as '90s' or '10m'; the encoding "
            "of its images does not count. It becomes a failed row, and the other cells continue."
        ),
    ] = None,
    retry: Annotated[int, typer.Option(help="How often to retry a cell that fails.")] = 0,
    address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster, 'HOST:PORT'; 'auto' is the one that this machine belongs to. By "
            "default 'RAY_ADDRESS', or this machine alone."
        ),
    ] = None,
    gpus_per_cell: Annotated[
        float | None,
        typer.Option(
            help="GPUs of each worker on Ray; with 0.25, four share one. By default 1, and none "
            "with the device 'cpu'."
        ),
    ] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
    offline: Offline = False,
    trust_pickle: TrustPickle = False,
    cards: Cards = None,
) -> None:
    """Run a suite, and write 'results/' and 'leaderboard.md'.

    Finished cells are never run again: stop at any time, and the same command continues. The first
    seed of all methods is run first, so that a full ranking is available early. Several runs may
    share a folder, on one machine or on many: each cell is run by one of them.
    """
    settings = read_settings(config)
    limits = {
        "memory_budget": read_size(memory_budget),
        "cache_limit": read_size(cache_limit),
        "timeout": read_seconds(timeout),
    }
    with stoppable(), ExitStack() as stack:
        from compatbench.engine.request import check_names, make_request

        check_names(suite, methods=methods, tasks=tasks, transfers=transfers)
        from compatbench.engine.execute.planning import Planner

        # It loads PyTorch and the methods while this process loads the rest.
        planner = stack.enter_context(Planner(max(threads, 1), limits["timeout"]))
        from compatbench.engine.compute import Compute
        from compatbench.runs import run_request
        from compatbench.tables.terminal_ranking import list_rankings, print_flags, print_ranking

        compute = Compute(
            executor=executor,
            device=device,
            jobs=jobs,
            jobs_per_gpu=jobs_per_gpu,
            threads=threads,
            decoders=decoders,
            retry=retry,
            address=address,
            gpus_per_cell=gpus_per_cell,
            **limits,
        )
        with _follow(error_console if as_json else console, out) as (progress, start):
            ask = partial(
                make_request,
                suite,
                methods,
                tasks=tasks,
                seeds=seeds,
                shots=shots,
                transfers=transfers,
                out=out,
                precision=precision,
                skip_missing=skip_missing,
                shard=shard,
                config=settings,
            )
            finished = run_request(ask, planner, compute, start, progress.on_event)
        plan = finished.plan
        page = finished.page.restrict(**plan.selection)
        if as_json:
            print_json(list_rankings(page))
        else:
            print_ranking(console, page)
            print_flags(console, finished.page, page.results.methods)
            _say_what_was_written(plan, out)
        if not finished.failures:
            return
        if not as_json:
            tried = len(plan.to_do) + len(plan.broken)
            say(f"{len(finished.failures)} of {tried} cells failed")
            say("Run the same command again to retry them.")
        raise typer.Exit(1)


def _say_what_was_written(plan: "Plan", out: Path) -> None:
    modules = f"modules in {out / 'runs'}/modules/"
    if plan.trial:
        say(escape(f"a trial: wrote {modules}"))
        return
    board = ""
    if plan.suite.publish:
        board = f"{out / 'leaderboard.md'}, "
    say(escape(f"wrote {board}results in {out / 'results' / plan.suite.name}/, {modules}"))


@contextmanager
def _follow(to: "Console", out: Path | None = None) -> Iterator[tuple["RunProgress", Any]]:
    """Show how far the cells are. Yield the display, and a function that starts it with a plan."""
    from compatbench.runs.progress import RunProgress

    with RunProgress(to, out) as progress:

        def start(plan: "Plan", workers: int) -> None:
            say_plan(plan, workers, to)
            progress.start_plan(plan, workers)

        yield progress, start


@app.command("plan", rich_help_panel=READERS)
def plan(
    suite: Suite = "mini",
    methods: Methods = "all",
    tasks: Tasks = "all",
    seeds: Seeds = None,
    shots: Shots = None,
    transfers: Transfers = None,
    out: Out = Path(),
    precision: Precision = None,
    shard: Shard = None,
    config: TrialSettings = None,
    device: Device = "auto",
    jobs: Jobs = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
    cards: Cards = None,
) -> None:
    """Show what 'run' would do: cells to do and done, what is missing, and how long it takes.

    Nothing is fetched and nothing is written, but damaged records are set aside. Times follow from
    the finished cells of each method, here or in 'results/'; without any, the time of a method is
    not known.
    """
    settings = read_settings(config)
    with console.status("reading the suite and the methods"):
        from compatbench.engine.request import check_names

        check_names(suite, methods=methods, tasks=tasks, transfers=transfers)
        import compatbench

        planned = compatbench.plan(
            suite,
            methods,
            tasks=tasks,
            seeds=seeds,
            shots=shots,
            transfers=transfers,
            out=out,
            precision=precision,
            shard=shard,
            config=settings,
        )
        workers = compatbench.Compute(device=device, jobs=jobs).count_workers()
    frame = planned.frame
    if as_json:
        print_json(frame)
        return
    about = [_format_about(seconds / workers) for seconds in frame["seconds"]]
    hidden = ["seconds"]
    if set(frame["transfer"]) <= {"copied"}:
        hidden.append("transfer")
    if not frame["missing"].any():
        hidden.append("missing")
    print_frame(frame.assign(about=about).drop(columns=hidden), right=["about"])
    say_plan(planned, workers)
    if planned.missing:
        doctor = f"compatbench store doctor --suite {suite}"
        say(escape(f"'{doctor}' shows more, and what to do"))


def _format_about(seconds: float) -> str:
    if math.isnan(seconds):
        return "not known"
    return format_seconds(seconds) if seconds else ""


def say_plan(plan: "Plan", workers: int, to: "Console" = console) -> None:
    """Print what is missing or cannot be loaded, with reasons, and then how much is left to do."""
    for name, why in plan.left_out.items():
        method = f"method '{escape(name)}', which cannot be loaded"
        say(f"[yellow]left out[/] {method}: {escape(why)}", to)
    for name, why in plan.missing.test_sets.items():
        if name not in plan.missing.broken:
            say(f"[yellow]missing[/] images of {escape(name)}: {escape(why)}", to)
    broken = [(cell.test_sets[0], cell.broken) for cell in plan.broken]
    for name, why in dict.fromkeys(broken):
        say(f"[red]broken[/] images of {escape(name)}: {escape(why)}", to)
    for name, why in plan.missing.backbones.items():
        say(f"[yellow]missing[/] weights of {escape(name)}: {escape(why)}", to)
    left = len(plan.to_do)
    total = plan.total
    done = len(plan.mine) - left
    in_shard = ""
    if plan.shard is not None:
        in_shard = f" of {len(plan.cells):,} in this shard"
    cells = "cell" if total == 1 else "cells"
    parts = [f"[bold]{plan.suite.name}[/]: {total:,} {cells}{in_shard}"]
    if done == total:
        parts.append("all done")
    else:
        parts.append(f"{done:,} done, {left:,} to do")
    missing = total - len(plan.mine)
    if missing > 0:
        parts.append(f"{missing:,} without images or weights")
    if workers and done < total:
        parts += _describe_time(plan, workers)
    say(", ".join(parts), to)


def _describe_time(plan: "Plan", workers: int) -> list[str]:
    """Return how long the remaining cells take, and the methods whose time is not known yet."""
    with_workers = f"with {workers} workers" if workers > 1 else "with 1 worker"
    unknown = plan.unknown
    if not plan.seconds:
        parts = [with_workers]
        if unknown:
            parts.append("their time is not known before some have finished")
        return parts
    parts = [f"about {format_seconds(plan.seconds / workers)} {with_workers}"]
    if unknown:
        names = ", ".join(unknown[:3])
        if len(unknown) > 3:
            names += f" and {len(unknown) - 3} more"
        parts.append(f"without {escape(names)}, whose time is not known yet")
    return parts


@maintain.command("tune")
def tune(
    methods: Annotated[str, typer.Argument(help=METHODS_HELP, autocompletion=complete_methods)],
    suite: Suite = "mini",
    out: Out = Path(),
    write: Annotated[
        bool,
        typer.Option("--write", help="Put the chosen settings into 'methods' of the suite's file."),
    ] = False,
    device: Device = "auto",
    jobs: Jobs = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
    offline: Offline = False,
    cards: Cards = None,
) -> None:
    """Choose methods' settings for a suite, on training images of its development tasks.

    The settings that the suite's card names ('tuning') are fitted on three quarters of each
    few-shot draw and tested on the last, on the first source alone. Finished fits are kept, as
    those of 'run' are, and what was compared is written to 'results/<suite>/tuning/'.

    The first line of each round shows how long it takes. Stop at any time; the same command
    continues. The last lines are for the suite's file; --write puts them there. For a method that
    is sent as a pull request, the project makes the record after the merge.
    """
    with stoppable():
        from compatbench.engine.request import check_names

        check_names(suite, methods=methods)
        import compatbench

        compute = compatbench.Compute(device=device, jobs=jobs)
        with _follow(error_console if as_json else console) as (progress, start):
            tunings = compatbench.tune(
                methods,
                suite,
                out=out,
                write=write,
                compute=compute,
                progress=False,
                on_start=start,
                on_event=progress.on_event,
            )
        if as_json:
            _print_tunings_as_json(tunings)
        else:
            _print_tunings(tunings)


def _print_tunings_as_json(tunings: Any) -> None:
    import pandas as pd

    frames = []
    for tuning in tunings:
        frame = tuning.frame
        frames.append(frame.assign(method=tuning.method, chosen=frame.index == tuning.chosen))
    print_json(pd.concat(frames))


def _print_tunings(tunings: Any) -> None:
    """Show every setting, the chosen one, and the lines for the suite's file."""
    import yaml

    from compatbench.method.registry import builtin_methods

    entries: dict[str, Any] = {}
    for tuning in tunings:
        images = f"{sum(tuning.total):,} held-out images, in percent"
        say(f"[bold]{escape(tuning.method)}[/], {images}")
        choice = [""] * len(tuning.settings)
        choice[tuning.chosen] = "chosen"
        rounded = tuning.frame.round({"accuracy": 1, "gain": 1, "error": 1})
        print_frame(rounded.assign(choice=choice))
        published = builtin_methods().get(tuning.method).Config()
        changes = tuning.settings[tuning.chosen].changes(published)
        # A copy, because YAML writes an object that two entries share only once, under a label.
        entries[tuning.method] = deepcopy(changes)
    say("what 'methods' of the suite says of these settings ({}: nothing):")
    say(escape(yaml.safe_dump(entries, sort_keys=False).rstrip()))
