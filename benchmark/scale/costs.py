"""The full matrix as a schedule sees it: what each cell takes, needs and writes.

Seconds of cells and images are those of ``compatbench plan --device-model``; what the machines are
like beside their cards is assumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from simulate import Job, Site

from compatbench.backbone import FEATURES
from compatbench.data.cards import SuiteCard, suite_cards, task_cards
from compatbench.data.feature_cache import WHOLE
from compatbench.engine.cell import Cell
from compatbench.engine.costs import PREDICTION, plan_fit
from compatbench.engine.gpu_hours import HOUR, find_device_model, time_cells
from compatbench.engine.matrix import Matrix, select_matrix
from compatbench.engine.model_size import FLOAT, ModelSize, measure_model
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods

SUITE, CARD, PRECISION = "full", "h100", "tf32"
VIEWS = 16  # of each training image, whatever a method asks for


# What was not measured of a ``Site``; ``--assume NAME=NUMBER`` of ``pages.py`` changes one.
ASSUMED: dict[str, tuple[float, str, str]] = {
    "worker_rate": (1e9, "B/s", "what one worker reads from the file system"),
    "shared_rate": (8e9, "B/s", "what the file system gives to all workers together"),
    "write_rate": (
        *(200.0, "1/s"),
        "small files, written and synced, that it takes from all workers together",
    ),
    "mean_life": (
        *(1000.0 * HOUR, "s"),
        "mean time until a worker dies: process, GPU, node or pre-emption",
    ),
    "restart": (300.0, "s", "until a dead worker is back"),
}


@dataclass(frozen=True, eq=False)
class Costs:
    """The whole matrix.

    Attributes:
        feature_bytes: of the feature cache.
        files: that are there in the end.
    """

    suite: SuiteCard
    jobs: Sequence[Job]
    site: Site
    records: int
    feature_bytes: float
    prediction_bytes: float
    files: int


def read_suite() -> SuiteCard:
    """The full matrix, without fits on targets, with as many views as a cluster would keep."""
    suite = suite_cards.read(SUITE)
    training = suite.training.model_copy(update={"most_views": VIEWS})
    return suite.model_copy(update={"retrained": False, "training": training})


def count_costs(**assumed: float) -> Costs:
    """Every cell with its cost, and the machines, of which something may be ``assumed``."""
    suite, model = read_suite(), find_device_model(CARD)
    matrix = select_matrix(suite, builtin_methods(), "all")
    seconds, sizes, jobs, records, answers = {}, {}, [], 0, 0
    times = time_cells(matrix, model, PRECISION)["seconds"]
    for cell, spent in zip(matrix.places, times, strict=True):
        names = []
        for name, backbone, images in _list_entries(matrix, cell):
            flops = _size_of(backbone).image_flops / model.flops(PRECISION)
            seconds[name] = images * max(1 / model.image_rate, flops)
            sizes[name] = images * _size_of(backbone).input_bytes(FEATURES)
            names.append(name)
        tests = [_count_images(name, "test") for name in matrix.tests[cell.task]]
        jobs.append(
            Job(
                cell.source,
                cell.task,
                cell.shots,
                cell.seed,
                cell.name,
                spent,
                cell.backbones,
                tuple(names),
                sum(sizes[name] for name in names),
                # Module, its record, and per backbone predictions and the record again.
                writes=2 + 2 * len(cell.backbones),
            )
        )
        records += len(cell.backbones) * len(tests)
        answers += len(cell.backbones) * sum(tests)
    weights = {name: _size_of(name).parameters * FLOAT for job in jobs for name in job.backbones}
    assumed = {name: default for name, (default, *_) in ASSUMED.items()} | assumed
    site = Site(weights, seconds, **assumed)  # type: ignore[arg-type]
    files = 3 * len(jobs) + len(seconds)  # module, record and predictions
    return Costs(suite, jobs, site, records, sum(sizes.values()), answers * PREDICTION, files)


def _list_entries(matrix: Matrix, cell: Cell) -> Iterator[tuple[str, str, int]]:
    """The entries of the feature cache that a cell needs: name, backbone and images."""
    choice, draw = matrix.choice(cell), f"{cell.shots} shots, seed {cell.seed}"
    images = plan_fit(choice, card := matrix.cards[cell.task], cell.shots).images
    classes = len(card.classes)
    val = min(classes * min(cell.shots, cell.training.val_shots), images)
    for kind, wanted, views in (("train", images, 1 + VIEWS), ("val", val, 1)):
        if choice.method.card.learns:
            whole = _count_images(cell.task, kind) or wanted
            is_whole = wanted >= WHOLE * whole
            where = cell.task if is_whole else f"{cell.task}, {draw}"
            name = f"features of {cell.source}: {kind} of {where}"
            yield name, cell.source, (whole if is_whole else wanted) * views
    for test in matrix.tests[cell.task]:
        for backbone in cell.backbones:
            name = f"features of {backbone}: test of {test}"
            yield name, backbone, _count_images(test, "test")


@cache
def _count_images(task: str, split: str) -> int:
    counts: dict[str, int] = {**task_cards.read(task).counts}
    return counts.get(split, 0)


@cache
def _size_of(name: str) -> ModelSize:
    if (size := measure_model(name)) is None:
        raise CompatbenchError(f"the size of backbone '{name}' is not known")
    return size
