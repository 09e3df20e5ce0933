"""The commands that measure a suite: ``compatbench run`` and ``plan``."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer
from rich.markup import escape

from compatbench.cli import options
from compatbench.cli.output import console, format_seconds, print_table, say

if TYPE_CHECKING:
    from compatbench.engine.plan import Plan

STOPPED = 130  # exit code of a command that was stopped, as shells have it


def run(
    suite: str = "mini",
    methods: str = "all",
    tasks: str = "all",
    seeds: str | None = None,
    shots: str | None = None,
    transfers: str | None = None,
    out: Path = Path(),
    data_root: list[str] | None = None,
    shots_file: list[Path] | None = None,
    skip_missing: bool = False,
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    gpus_per_cell: float | None = None,
    jobs: int | None = None,
    jobs_per_gpu: int | None = None,
    threads: int = 1,
    decoders: int | None = None,
    device: str = "auto",
    memory_budget: str | None = None,
    cache_limit: str | None = None,
    precision: options.Precision | None = None,
    timeout: str | None = None,
    retry: str = "",
    shard: str | None = None,
    offline: bool = False,
    trust_pickle: bool = False,
) -> None:
    """Run a suite and write results/ and leaderboard.md.

    Finished cells are never run again: stop at any time, and the same command continues. The first
    seed of all methods is run first, so that a full ranking is there early. Several runs may share
    a folder, on one machine or on many: each cell is run by one of them.

    Args:
        skip_missing: Leave out cells whose images or weights are missing, and run the others.
        executor: Where cells run: in processes on this machine, or on a Ray cluster.
        address: The Ray cluster, HOST:PORT; 'auto' is the one that this machine belongs to. By
            default RAY_ADDRESS, or this machine alone.
        gpus_per_cell: GPUs of each worker on Ray; with 0.25, four share one. By default 1; none
            with --device cpu.
        jobs: Workers; on Ray, by default all that fit.
        jobs_per_gpu: Workers on each GPU, in place of --jobs; by default 1.
        threads: Threads of each worker.
        decoders: Processes, of each worker, that decode images; by default its share of the cores
            with a GPU, and 1 without.
        memory_budget: Most memory for the activations of each worker's text encoder, and for the
            images that it classifies at once, such as '2G'; by default half of what is free, and
            1 GiB. Less is slower.
        cache_limit: Most disk for image features and tokens, such as '200G': those unused
            longest are deleted, and tokens that do not fit are computed whenever they are needed.
        precision: Number format of the frozen towers, by default the suite's; modules are always
            trained in float32. 'tf32' is float32 with the short products of NVIDIA's cards, in
            training, too. Another precision gives separate cells, which replace the previous rows
            in results/.
        timeout: End an attempt at a cell that takes longer, such as '90s' or '10m'; the encoding
            of its images does not count. It becomes a failed row, and the other cells continue.
        retry: Try a cell again after these failures: 'oom', 'killed', 'timeout', 'error', each
            once or as often as it says: 'oom,killed:3'.
    """
    with stoppable():
        import compatbench as api
        from compatbench.cli.progress import RunProgress, restriction_of
        from compatbench.engine.execute.compute import parse_retry
        from compatbench.engine.execute.shards import Shard
        from compatbench.files.sizes import parse_bytes
        from compatbench.tables.suite_page import read_suite_page
        from compatbench.tables.terminal_ranking import print_ranking

        with RunProgress(console, out) as progress:
            results = api.run(
                suite,
                methods,
                tasks=tasks,
                seeds=options.split(seeds),
                shots=options.split(shots),
                transfers=options.split(transfers),
                out=out,
                precision=precision,
                shots_files=shots_file or (),
                skip_missing=skip_missing,
                shard=None if shard is None else Shard.parse(shard),
                compute=api.Compute(
                    executor=executor,
                    device=device,
                    jobs=jobs,
                    jobs_per_gpu=jobs_per_gpu,
                    threads=threads,
                    decoders=decoders,
                    memory_budget=None if memory_budget is None else parse_bytes(memory_budget),
                    cache_limit=None if cache_limit is None else parse_bytes(cache_limit),
                    timeout=None if timeout is None else options.read_seconds(timeout),
                    retry=parse_retry(retry),
                    address=address,
                    gpus_per_cell=gpus_per_cell,
                ),
                on_start=progress.announce_plan,
                on_event=progress.on_event,
            )
        plan = progress.plan
        assert plan is not None
        print_ranking(console, read_suite_page(plan.suite, out).restrict(**restriction_of(plan)))
        page = f"{out / 'leaderboard.md'}, " if plan.suite.publish else ""
        folders = f"results in {out / 'results' / plan.suite.name}/, modules in {out / 'runs'}/"
        say(escape(f"wrote {page}{folders}modules/"))
        if results.failures:
            tried = len(plan.to_do) + len(plan.broken)
            count = f"{len(results.failures)} of {tried} cells failed"
            say(f"{count}; the same command tries them again")
            raise typer.Exit(1)


def plan(
    suite: str = "mini",
    methods: str = "all",
    tasks: str = "all",
    seeds: str | None = None,
    shots: str | None = None,
    transfers: str | None = None,
    out: Path = Path(),
    data_root: list[str] | None = None,
    shots_file: list[Path] | None = None,
    device: str = "auto",
    jobs: int | None = None,
    decoders: int | None = None,
    shard: str | None = None,
) -> None:
    """Show what 'run' would do: cells to do and done, what is missing, and what it costs.

    Nothing is fetched and nothing is written. Times are counted from the cards, the models'
    sizes and this machine's speed now, or scaled to what finished cells took.

    Args:
        jobs: Workers, for the estimate of time.
        decoders: Processes, of each worker, that decode images, for that of memory.
    """
    with console.status("reading the suite and the methods"):
        import compatbench as api
        from compatbench.cli.progress import say_plan
        from compatbench.engine.execute.shards import Shard

        compute = api.Compute(device=device, jobs=jobs, decoders=decoders)
        place = compute.list_devices()[0]
        found = api.plan(
            suite,
            methods,
            tasks=tasks,
            seeds=options.split(seeds),
            shots=options.split(shots),
            transfers=options.split(transfers),
            out=out,
            shots_files=shots_file or (),
            shard=None if shard is None else Shard.parse(shard),
        )
        workers = compute.count_workers()
    columns = dict(found.columns)
    seconds = columns.pop("seconds")
    columns["about"] = [format_seconds(each / workers) if each else "" for each in seconds]
    if set(columns["transfer"]) <= {"copied"}:
        del columns["transfer"]
    if not any(columns["missing"]):
        del columns["missing"]
    right = columns.keys() - {"method", "transfer"}
    print_table(list(columns), zip(*columns.values(), strict=True), right)
    if found.to_do or found.missing:
        _print_costs(found, place, compute.count_decoders())
    say_plan(found, workers)
    if found.missing:
        say(f"'compatbench doctor --suite {suite}' shows more, and what to do")


def _print_costs(plan: Plan, device: str, decoders: int) -> None:
    """Prints images, disk and memory of the whole selection, what is missing included."""
    from compatbench.engine.costs import count_costs
    from compatbench.engine.model_size import measure_rate
    from compatbench.files.sizes import format_bytes

    costs, rate = count_costs(plan.matrix), measure_rate(device)
    speed = f"at {rate / 1e9:,.0f} GFLOP/s, a matrix product on {device} just now"
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
            "counted: libraries, weights, features, a batch of images or a step of training; "
            "text towers keep at most --memory-budget",
        ),
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
        say(f"not counted: {names}, whose sizes are known when they are loaded")


@contextmanager
def stoppable(
    outcome: str = "finished cells are kept, and the same command continues:\n  {command}",
) -> Iterator[None]:
    """Ends a command with exit code 130 on Ctrl-C, or when a batch system or a terminal ends it.

    ``outcome`` says what is left of its work.
    """
    stops = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {stop: signal.getsignal(stop) for stop in stops}
    for stop, handler in before.items():
        if handler != signal.SIG_IGN:  # as by nohup
            signal.signal(stop, _stop)
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["compatbench", *sys.argv[1:]])
        print(f"\ncompatbench: stopped; {outcome.format(command=command)}", file=sys.stderr)
        raise typer.Exit(STOPPED) from None
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)


def _stop(*_: object) -> None:
    """What Ctrl-C does; nothing is written to a terminal that is gone, for that would fail."""
    for stream in (1, 2):
        with suppress(OSError):  # it may be closed
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    raise KeyboardInterrupt
