"""The commands that take a suite: run, plan, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from compatbench.cli.options import (
    DataRootOption,
    DeviceOption,
    ExecutorName,
    MethodsOption,
    OfflineOption,
    OutOption,
    Precision,
    SeedsOption,
    ShardOption,
    ShotsFileOption,
    ShotsOption,
    SuiteOption,
    TasksOption,
    TrustPickleOption,
    complete_backbones,
    complete_suites,
    complete_tasks,
    read_numbers,
    read_seconds,
    read_shots_option,
)
from compatbench.files.sizes import parse_bytes

console = Console()


def run(
    suite: SuiteOption = "mini",
    methods: MethodsOption = "all",
    tasks: TasksOption = "all",
    seeds: SeedsOption = None,
    shots: ShotsOption = None,
    out: OutOption = Path(),
    data_root: DataRootOption = None,
    shots_file: ShotsFileOption = None,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing",
            help="Run what is here, and leave out what lacks its images or weights.",
        ),
    ] = False,
    executor: Annotated[
        ExecutorName,
        typer.Option(
            "--executor",
            help="Where cells run: in processes on this machine, or on a Ray cluster, which needs "
            "compatbench\\[ray].",
        ),
    ] = ExecutorName.local,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="The Ray cluster; 'auto' is the one that this machine belongs to.",
            show_default="RAY_ADDRESS, or this machine alone",
        ),
    ] = None,
    gpus_per_cell: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-cell",
            min=0,
            help="GPUs of each worker on Ray; with 0.25, four share one.",
            show_default="1; none with --device cpu",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Workers.",
            show_default="one per core; 1 on a GPU; on Ray, all that fit",
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each worker.")] = 1,
    device: DeviceOption = "auto",
    memory_budget: Annotated[
        str | None,
        typer.Option(
            "--memory-budget",
            help="Most memory for the activations of each worker's text encoder, such as '2G'. "
            "Less is slower, never different.",
            show_default="half of what is free",
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--precision",
            help="What the frozen towers compute in; modules are trained in float32 always. "
            "Another precision is another set of cells, in place of the first in results/.",
            show_default="the suite's",
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="TIME",
            help="End an attempt at a cell that takes longer, such as '90s' or '10m'; the encoding "
            "of its images does not count. It becomes a failed row, and the others go on.",
        ),
    ] = None,
    retry: Annotated[
        str,
        typer.Option(
            "--retry",
            metavar="KINDS",
            help="Try a cell again after these failures: 'oom', 'killed', 'timeout', 'error', each "
            "once or as often as it says: 'oom,killed:3'.",
        ),
    ] = "",
    shard: ShardOption = None,
    offline: OfflineOption = False,
    trust_pickle: TrustPickleOption = False,
) -> None:
    """Run a suite and write results/ and leaderboard.md.

    Finished cells are never run again: stop at any time, and the same command goes on. Several
    runs may share a folder, on one machine or on many: each cell is run by one of them.
    """
    from compatbench.cli.stop import stoppable

    with stoppable():
        from compatbench.cli.run import run_command
        from compatbench.engine.execute.executors import ExecutorOptions
        from compatbench.engine.execute.shards import Shard
        from compatbench.engine.failures import parse_retry

        run_command(
            console,
            suite=suite,
            methods=methods,
            tasks=tasks,
            seeds=read_numbers("--seeds", seeds, least=0),
            shots=read_shots_option(shots),
            shots_files=shots_file or (),
            skip_missing=skip_missing,
            out=out,
            executor=ExecutorOptions(executor.value, jobs, address, gpus_per_cell),
            threads=threads,
            device=device,
            precision=precision.value if precision else None,
            memory_budget=None if memory_budget is None else parse_bytes(memory_budget),
            timeout=read_seconds("--timeout", timeout),
            retry=parse_retry(retry),
            shard=None if shard is None else Shard.parse(shard),
        )


def plan(
    suite: SuiteOption = "mini",
    methods: MethodsOption = "all",
    tasks: TasksOption = "all",
    seeds: SeedsOption = None,
    shots: ShotsOption = None,
    out: OutOption = Path(),
    data_root: DataRootOption = None,
    shots_file: ShotsFileOption = None,
    device: DeviceOption = "auto",
    shard: ShardOption = None,
) -> None:
    """Show what 'run' would do: cells to do and done, what is missing, and what it costs.

    Nothing is fetched and nothing is written. The costs are counted from the cards and the
    models' sizes, or taken from what was measured before; the output says which.
    """
    from compatbench.cli.run import plan_command
    from compatbench.engine.execute.shards import Shard

    plan_command(
        console,
        suite=suite,
        methods=methods,
        tasks=tasks,
        seeds=read_numbers("--seeds", seeds, least=0),
        shots=read_shots_option(shots),
        shots_files=shots_file or (),
        out=out,
        device=device,
        shard=None if shard is None else Shard.parse(shard),
    )


def doctor(
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="Look at all that a suite needs: its name or a YAML file.",
            show_default="mini, if neither a task nor a backbone is given",
            autocompletion=complete_suites,
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            help="Look at a task's images: a name or a glob; may be repeated.",
            autocompletion=complete_tasks,
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            help="Look at a backbone: a card's name, MODEL/TAG, or a file; may be repeated.",
            autocompletion=complete_backbones,
        ),
    ] = None,
    data_root: DataRootOption = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Also run zero-shot on every pair of a task and a backbone that are here, and "
            "hold it against published figures.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    trust_pickle: TrustPickleOption = False,
) -> None:
    """Tell whether a suite can run here, and what to do where it cannot.

    Shows, for every dataset, what is there, what lacks and the fix; for every backbone, its
    weights, activation, preprocessing and sizes; and the machine. Works offline and fetches
    nothing. Exits with 1 if something is missing or wrong.
    """
    from compatbench.cli.doctor import doctor_command

    doctor_command(
        console, suite=suite, tasks=task, backbones=backbone, verify=verify, device=device
    )
