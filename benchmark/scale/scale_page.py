"""docs/scale.md and its picture, from cards, rates and assumptions.

python benchmark/scale/real_run.py   # runs six methods on a mini task
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import real_run
from costs import ASSUMED, CARD, HOUR, PRECISION, Costs, count_costs
from pages import Page
from simulate import Job, Outcome, simulate

from compatbench.data.cards import suite_cards, suite_tasks
from compatbench.engine.costs import count_costs as count_plan
from compatbench.engine.gpu_hours import DEVICE_MODELS, estimate_hours, read_launches
from compatbench.engine.matrix import select_matrix
from compatbench.method.registry import builtin_methods
from compatbench.tables.figures.spec_parts import Shown

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LIVES = (200.0, 500.0, 1000.0, float("inf"))  # hours
LIVES_GPUS = 64
DRAWS = 5  # of the deaths
REAL = "paper"  # whose hours are shown method by method


def make_page(**assumed: float) -> Page:
    """The page and its picture, for these assumptions."""
    costs = count_costs(**assumed)
    outcomes = [typical_run(costs, gpus) for gpus in GPUS]
    encoding, jobs = costs.site.encode_seconds, costs.jobs
    values = {
        "costs": costs,
        "outcomes": outcomes,
        "suite": costs.suite,
        "tasks": len(suite_tasks(costs.suite)),
        "methods": _methods(jobs),
        "run": real_run.read(),
        "six": real_run.METHODS,
        "assumptions": [
            (name, getattr(costs.site, name), unit, why) for name, (_, unit, why) in ASSUMED.items()
        ],
        "one_gpu": _one_gpu(costs),
        "limits": _limits(costs),
        "lives": [(hours, typical_run(costs, LIVES_GPUS, hours * HOUR)) for hours in LIVES],
        "inf": float("inf"),
        "lives_gpus": LIVES_GPUS,
        "knee": _knee(costs, outcomes),
        "real": REAL,
        "launches": read_launches(),
        "rates": DEVICE_MODELS[CARD].describe(PRECISION),
        # Seconds of encoding, if every cell did its own.
        "alone": sum(encoding[name] for job in jobs for name in job.features),
        "shared": f"{sum(encoding.values()) / HOUR:,.0f}",
    }
    filters = {"size": _size, "hours": _hours, "days": _days}
    figures = {"scale.svg": show_days(costs, outcomes)}
    return Page(values | _real_hours(), figures, filters=filters)


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


def _real_hours() -> dict[str, object]:
    """Hours of one seed of a real suite on a card, and without the fits on targets."""
    suite, model, hours = suite_cards.read(REAL), DEVICE_MODELS[CARD], {}
    for key in ("hours_of_methods", "hours_without_retrained"):
        matrix = select_matrix(suite, builtin_methods(), "all", seeds=[1])
        hours[key] = estimate_hours(matrix, count_plan(matrix), model, PRECISION).to_dict("records")
        suite = suite.model_copy(update={"retrained": False})
    return hours


def _methods(jobs: Sequence[Job]) -> list[tuple[str, float, float]]:
    """Methods with the hours of all of their cells, the most first, and of the longest."""
    hours: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        hours[job.name].append(job.seconds / HOUR)
    table = [(method, sum(each), max(each)) for method, each in hours.items()]
    return sorted(table, key=lambda row: -row[1])


@lru_cache(maxsize=1)
def _one_gpu(costs: Costs) -> float:
    """Seconds of one GPU that never dies."""
    return simulate(costs.jobs, 1, replace(costs.site, mean_life=float("inf"))).makespan


def _knee(costs: Costs, outcomes: Sequence[Outcome]) -> int:
    """The most GPUs that are used with an efficiency of nine tenths."""
    first = _one_gpu(costs)
    return max(o.workers for o in outcomes if first / o.makespan >= 0.9 * o.workers)


def _limits(costs: Costs) -> Iterable[tuple[str, float, str]]:
    """Each bound on the makespan, in seconds, and where it is from."""
    site, jobs = costs.site, costs.jobs
    longest = max(jobs, key=lambda job: job.seconds)
    chain, job = max(((_chain(costs, job), job) for job in jobs), key=lambda pair: pair[0])
    entry, encode = max(site.encode_seconds.items(), key=lambda item: item[1])
    read = sum(job.read_bytes for job in jobs)
    writes = sum(job.writes for job in jobs)
    loads = max(sum(site.weight_bytes[name] for name in job.backbones) for job in jobs)
    slowest = f"{job.name}, {job.task}, {job.source}, {job.shots} shots"
    reading = f"{_size(read)} at {_size(site.shared_rate)} a second"
    writing = f"{writes:,} files at {site.write_rate:g} a second"
    return (
        ("the longest chain", chain, f"{slowest}: weights, features, cell"),
        ("the longest cell", longest.seconds, "no cell is divided"),
        ("encoding", encode, f"no entry is divided: {entry}"),
        ("reading features", read / site.shared_rate, reading),
        ("writing records", writes / site.write_rate, writing),
        ("loading weights", loads / site.worker_rate, f"{_size(loads)} of the largest group"),
    )


def _chain(costs: Costs, job: Job) -> float:
    """Seconds of a cell that has to load and encode all that it needs, and shares nothing."""
    site = costs.site
    load = sum(site.weight_bytes[name] for name in job.backbones) + job.read_bytes
    encode = sum(site.encode_seconds[name] for name in job.features)
    return load / site.worker_rate + encode + job.seconds


def _days(seconds: float) -> str:
    return f"{seconds / HOUR / 24:,.1f}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}" if hours >= 0.01 else "<0.01"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def show_days(costs: Costs, outcomes: Sequence[Outcome]) -> Shown:
    """Makespan and efficiency against the number of GPUs."""
    alone, longest = _one_gpu(costs), max(job.seconds for job in costs.jobs)
    names, rows = ("simulated", "in proportion", "the longest cell"), []
    for outcome in outcomes:
        seconds = (outcome.makespan, alone / outcome.workers, longest)
        rows += [
            {"gpus": outcome.workers, "series": name, "days": round(each / HOUR / 24, 3)}
            for name, each in zip(names, seconds, strict=True)
        ]
        rows[-3]["efficiency"] = round(alone / outcome.makespan / outcome.workers, 4)
    return Shown(rows, {"series": names, "ticks": [outcome.workers for outcome in outcomes]})
