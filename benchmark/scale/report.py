"""Makes docs/scale.md and docs/scale.svg from measured.json and the assumptions.

python benchmark/scale/measure.py    # from results/mini, benchmark/speed and the cards
python benchmark/scale/real_run.py   # runs six methods on a mini task
python benchmark/scale/report.py     # the same bytes every time
python benchmark/scale/report.py --gpu-rate 4e13 --mean-life 36000 --out /tmp
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import real_run
from costs import HOUR, Assumptions, Costs, Measured, count_costs
from matrix import SUITE
from simulate import Job, Outcome, simulate

from compatbench.data.cards import suite_cards, suite_tasks, suite_variants
from compatbench.files.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = Path(__file__).parents[2] / "docs"
PAGE = Path(__file__).parent / "page.md"
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LIVES = (200.0, 500.0, 1000.0, float("inf"))  # hours
LIVES_GPUS = 64
DRAWS = 5  # of the deaths


def main() -> None:
    """Writes the page and the figure, for these assumptions."""
    parser = argparse.ArgumentParser(description="Simulate the full matrix on many GPUs.")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of scale.md and scale.svg")
    for name, value, unit, why in Assumptions.table():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=float, default=value, help=f"{unit}: {why}".strip(": "))
    given = vars(parser.parse_args())
    out = given.pop("out")
    assumed = Assumptions(**given)
    costs = count_costs(Measured.read(), assumed)
    outcomes = [typical_run(costs, gpus) for gpus in GPUS]
    write_atomic(out / "scale.md", make_page(Measured.read(), assumed, costs, outcomes).encode())
    save_figure(out / "scale.svg", costs, outcomes)


def typical_run(costs: Costs, gpus: int, mean_life: float | None = None) -> Outcome:
    """Of several draws of the deaths, the run of middle length.

    Args:
        mean_life: of a worker, in seconds, in place of the assumed one.
    """
    life = costs.site.mean_life if mean_life is None else mean_life
    draws = range(DRAWS if life < float("inf") else 1)
    sites = [replace(costs.site, mean_life=life, seed=seed) for seed in draws]
    runs = sorted((simulate(costs.jobs, gpus, site) for site in sites), key=lambda r: r.makespan)
    return runs[len(runs) // 2]


def make_page(
    measured: Measured, assumed: Assumptions, costs: Costs, outcomes: Sequence[Outcome]
) -> str:
    """The page, from its text and the tables."""
    suite = suite_cards.read(SUITE)
    tasks, methods = len(suite_tasks(suite)), len(measured.methods)
    draws = len(suite.shots) * len(suite.seeds)
    upgrades = len(suite.upgrades)
    jobs = costs.jobs
    records = sum(len(job.backbones) * (1 + len(suite_variants(suite, job.task))) for job in jobs)
    text = PAGE.read_text(encoding="utf-8")
    values = {
        "combinations": f"{methods * tasks * draws * upgrades:,}",
        "product": f"{methods} methods × {tasks} tasks × {len(suite.seeds)} seeds × "
        f"{len(suite.shots)} shots × {upgrades} upgrades",
        "cells": f"{len(jobs):,}",
        "upgrades": "\n".join(f"* {' → '.join(upgrade)}" for upgrade in suite.upgrades),
        "totals": _table(("", "", "how"), _totals(costs, records)),
        "processor": measured.processor,
        "core_gflops": f"{measured.core_flops / 1e9:g}",
        "store_us": f"{measured.store_seconds_per_cell * 1e6:.0f}",
        "methods": _table(
            ("method", "fit, s", "evaluation, s", "GPU-hours", "longest, h"),
            _methods(measured, jobs),
        ),
        "plan": _table(("", "`plan`", "the run", "times"), _plan()),
        "assumptions": _table(("option", "value", "", "what is assumed"), _assumptions(assumed)),
        "schedule": _table(
            ("GPUs", "days", "times faster", "efficiency", *_SHARES, "deaths"),
            _schedule(costs, outcomes),
        ),
        "limits": _table(("what", "hours, at least", "binds above", "how"), _limits(costs)),
        "lives": _table(
            ("mean life of a worker", "days", "cell-hours lost", "deaths"), _lives(costs)
        ),
        "knee": str(_knee(costs, outcomes)),
        "lives_gpus": str(LIVES_GPUS),
        "six": ", ".join(f"`{name}`" for name in real_run.METHODS),
        "modules": _size(real_run.read()["used"]["modules"]),
        "all": _size(real_run.read()["used"]["all"]),
        "alone": f"{_encode_alone(costs) / HOUR:,.0f}",
        "shared": f"{sum(costs.site.encode_seconds.values()) / HOUR:,.0f}",
    }
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


_SHARES = ("compute", "encode", "wait", "load", "store", "lost", "idle")


def _totals(costs: Costs, records: int) -> Iterable[tuple[str, ...]]:
    fits = sum(job.seconds for job in costs.jobs) / HOUR
    encode = sum(costs.site.encode_seconds.values()) / HOUR
    yield "cells (fits)", f"{len(costs.jobs):,}", "counted"
    yield "records", f"{records:,}", "counted: cells × backbones × test sets"
    yield "GPU-hours of cells", f"{fits:,.0f}", "scaled from measured, by assumptions"
    yield "GPU-hours of encoding", f"{encode:,.0f}", "counted, at assumed rates"
    yield "image features", _size(costs.feature_bytes), "counted: float32, sixteen views"
    yield (
        "image tokens",
        _size(costs.token_bytes),
        "counted: sixteen views, for methods that act in the image tower",
    )
    yield "predictions", _size(costs.prediction_bytes), "counted: 8 bytes for each image"
    yield (
        "modules",
        _size(costs.module_bytes),
        "measured on the mini suite; real ones are some times as large",
    )
    yield "files in the end", f"{costs.files:,}", "counted: record, module, predictions; features"
    yield "files written", f"{sum(job.writes for job in costs.jobs):,}", "counted: with rewrites"


def _methods(measured: Measured, jobs: Sequence[Job]) -> Iterable[tuple[str, ...]]:
    hours: Counter[str] = Counter()
    longest: dict[str, float] = defaultdict(float)
    for job in jobs:
        hours[job.method] += job.seconds / HOUR  # type: ignore[assignment]
        longest[job.method] = max(longest[job.method], job.seconds / HOUR)
    for method, total in sorted(hours.items(), key=lambda item: -item[1]):
        mini = measured.methods[method]
        yield (
            method,
            f"{mini['fit_seconds']:.2f}",
            f"{mini['evaluate_seconds']:.3f}",
            _hours(total),
            _hours(longest[method]),
        )


def _plan() -> Iterable[tuple[str, ...]]:
    found = real_run.read()
    counted, used = found["counted"], found["used"]
    names = {"cache": "features and tokens on disk", "predictions": "predictions on disk"}
    for name, title in (names | {"memory": "memory of a worker"}).items():
        share = counted[name] / used[name]
        yield title, _size(counted[name]), _size(used[name]), f"{share:.2f}"


def _assumptions(assumed: Assumptions) -> Iterable[tuple[str, ...]]:
    for name, _, unit, why in Assumptions.table():
        yield f"`--{name.replace('_', '-')}`", f"{getattr(assumed, name):.6g}", unit, why


def _schedule(costs: Costs, outcomes: Sequence[Outcome]) -> Iterable[tuple[str, ...]]:
    for outcome in outcomes:
        whole = outcome.workers * outcome.makespan
        faster = _one_gpu(costs) / outcome.makespan
        shares = [*outcome.spent.values(), outcome.idle]
        yield (
            str(outcome.workers),
            f"{outcome.makespan / HOUR / 24:,.1f}",
            f"{faster:.1f}",
            f"**{faster / outcome.workers:.0%}**",
            *(f"{share / whole:.1%}" for share in shares),
            str(outcome.deaths),
        )


@lru_cache(maxsize=1)
def _one_gpu(costs: Costs) -> float:
    """Seconds of one GPU that never dies."""
    return simulate(costs.jobs, 1, replace(costs.site, mean_life=float("inf"))).makespan


def _knee(costs: Costs, outcomes: Sequence[Outcome]) -> int:
    """The most GPUs that are used with an efficiency of nine tenths."""
    first = _one_gpu(costs)
    return max(o.workers for o in outcomes if first / o.makespan >= 0.9 * o.workers)


def _limits(costs: Costs) -> Iterable[tuple[str, ...]]:
    """Each bound on the makespan, and the number of GPUs that would do all work in that time."""
    site, jobs = costs.site, costs.jobs
    work = sum(job.seconds for job in jobs)
    longest = max(jobs, key=lambda job: job.seconds)
    chain, job = max(((_chain(costs, job), job) for job in jobs), key=lambda pair: pair[0])
    entry, encode = max(site.encode_seconds.items(), key=lambda item: item[1])
    read = sum(job.read_bytes for job in jobs)
    writes = sum(job.writes for job in jobs)
    loads = max(sum(site.weight_bytes[name] for name in job.backbones) for job in jobs)
    slowest = f"{job.method}, {job.task}, {job.source}, {job.shots} shots"
    reading = f"{_size(read)} at {_size(site.shared_rate)} a second"
    writing = f"{writes:,} files at {site.write_rate:g} a second"
    for what, seconds, how in (
        ("the longest chain", chain, f"{slowest}: weights, features, cell"),
        ("the longest cell", longest.seconds, "no cell is divided"),
        ("encoding", encode, f"no entry is divided: {entry}"),
        ("reading features and tokens", read / site.shared_rate, reading),
        ("writing records", writes / site.write_rate, writing),
        ("loading weights", loads / site.worker_rate, f"{_size(loads)} of the largest group"),
    ):
        yield what, f"{seconds / HOUR:.3g}", f"{work / seconds:,.0f} GPUs", how


def _chain(costs: Costs, job: Job) -> float:
    """Seconds of a cell that has to load and encode all that it needs, and shares nothing."""
    site = costs.site
    load = sum(site.weight_bytes[name] for name in job.backbones) + job.read_bytes
    encode = sum(site.encode_seconds[name] for name in job.features)
    return load / site.worker_rate + encode + job.seconds


def _encode_alone(costs: Costs) -> float:
    """Seconds of encoding, if every cell did its own."""
    site = costs.site
    return sum(site.encode_seconds[name] for job in costs.jobs for name in job.features)


def _lives(costs: Costs) -> Iterable[tuple[str, ...]]:
    for hours in LIVES:
        outcome = typical_run(costs, LIVES_GPUS, hours * HOUR)
        yield (
            f"{hours:,.0f} h" if hours < float("inf") else "for ever",
            f"{outcome.makespan / HOUR / 24:,.1f}",
            f"{outcome.spent['lost'] / HOUR:,.0f}",
            str(outcome.deaths),
        )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rules = [
        "---" if i == 0 or name in ("how", "what is assumed", "") else "---:"
        for i, name in enumerate(head)
    ]
    lines = [head, rules, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}" if hours >= 0.01 else "<0.01"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def draw_figure(costs: Costs, outcomes: Sequence[Outcome]) -> Figure:
    """Makespan and efficiency against the number of GPUs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

    from compatbench.pages.figures.svg import BLUE, GREY, ORANGE

    gpus = [outcome.workers for outcome in outcomes]
    days = [outcome.makespan / HOUR / 24 for outcome in outcomes]
    alone = _one_gpu(costs) / HOUR / 24
    longest = max(job.seconds for job in costs.jobs) / HOUR / 24
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.loglog(gpus, [alone / n for n in gpus], "--", color=GREY, label="in proportion")
    left.axhline(longest, color=ORANGE, label="the longest cell")
    left.loglog(gpus, days, "o-", color=BLUE, label="simulated")
    left.set_ylabel("days")
    left.legend()
    efficiency = [alone / day / n for n, day in zip(gpus, days, strict=True)]
    right.semilogx(gpus, efficiency, "o-", color=BLUE)
    right.set_ylim(0, 1.05)
    right.set_ylabel("efficiency")
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (left, right):
        axes.xaxis.set_major_locator(FixedLocator(gpus))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(gpus, [str(n) for n in gpus])
        axes.set_xlabel("GPUs")
    return figure


def save_figure(path: Path, costs: Costs, outcomes: Sequence[Outcome]) -> None:
    """Writes the figure."""
    from compatbench.pages.figures.svg import save_svg, svg_style

    with svg_style():
        save_svg(draw_figure(costs, outcomes), path)


if __name__ == "__main__":
    main()
