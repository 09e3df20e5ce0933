"""What each cell of the full matrix takes: measured on a processor, and scaled to a GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from matrix import SUITE, Draw, matrix, size_of, token_bytes
from simulate import Job, Site

from compatbench.data.cards import suite_cards, task_cards
from compatbench.data.feature_cache import WHOLE
from compatbench.engine.model_size import FLOAT

MEASURED = Path(__file__).parent / "measured.json"
HOUR = 3600.0


def _assumed(default: float, unit: str, why: str) -> Any:
    return field(default=default, metadata={"unit": unit, "why": why})


@dataclass(frozen=True)
class Assumptions:
    """What was not measured; ``--assume NAME=NUMBER`` of ``pages.py`` changes one."""

    gpu_rate: float = _assumed(
        12e12,
        "FLOP/s",
        "what a GPU sustains in float32 products; three fifths of the 19.5e12 that the maker of "
        "the A100 gives as its peak",
    )
    gpu_share: float = _assumed(
        1.0,
        "",
        "a method's fit uses the same share of that rate as it uses of the core's; 0.5 is half",
    )
    step_seconds: float = _assumed(
        0.02, "s", "least time of an optimiser's step: launching its kernels from Python"
    )
    image_rate: float = _assumed(
        400.0, "1/s", "images that one worker reads, decodes and transforms"
    )
    worker_rate: float = _assumed(1e9, "B/s", "what one worker reads from the file system")
    shared_rate: float = _assumed(8e9, "B/s", "what the file system gives to all workers together")
    write_rate: float = _assumed(
        200.0, "1/s", "small files, written and synced, that it takes from all workers together"
    )
    mean_life: float = _assumed(
        1000.0 * HOUR, "s", "mean time until a worker dies: process, GPU, node or pre-emption"
    )
    restart: float = _assumed(300.0, "s", "until a dead worker is back")

    @classmethod
    def table(cls) -> list[tuple[str, float, str, str]]:
        """Name, default, unit and reason of each."""
        return [
            (f.name, float(f.default), f.metadata["unit"], f.metadata["why"])  # type: ignore[arg-type]
            for f in fields(cls)
        ]


@dataclass(frozen=True)
class Measured:
    """What ``measure.py`` has written.

    Attributes:
        processor: of the measurements; ``core_flops`` is its rate in products of matrices.
        methods: seconds and work of each method's mini cells, on average.
    """

    processor: str
    core_flops: float
    store_seconds_per_cell: float
    methods: Mapping[str, Mapping[str, float]]

    @classmethod
    def read(cls, path: Path = MEASURED) -> Measured:
        """Reads measured.json, or a file like it."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, eq=False)
class Costs:
    """The whole matrix.

    Attributes:
        feature_bytes, token_bytes: of the feature cache.
        files: that are there in the end.
    """

    jobs: Sequence[Job]
    site: Site
    feature_bytes: float
    token_bytes: float
    module_bytes: float
    prediction_bytes: float
    files: int


def count_costs(measured: Measured, assumed: Assumptions) -> Costs:
    """Every cell with its cost, and the machines, from what is measured and assumed."""
    entries = _Entries(measured, assumed)
    jobs, modules, predictions, files = [], 0.0, 0.0, 0
    images = {name: task_cards.read(name).counts for name in task_cards.names()}
    for draw in matrix():
        names, read = entries.needed(draw)
        jobs.append(
            Job(
                draw.source,
                draw.task,
                draw.shots,
                draw.seed,
                draw.kind.name,
                _seconds(draw, measured, assumed),
                draw.backbones,
                tuple(names),
                read,
                # Module, its record, and per backbone predictions and the record again.
                writes=2 + 2 * len(draw.backbones),
            )
        )
        modules += measured.methods[draw.kind.name]["module_bytes"]
        answers = sum(images[name]["test"] for name in draw.test_sets) * len(draw.backbones)
        predictions += answers * 2 * FLOAT
        files += 3
    site = Site(
        {
            name: size_of(name).parameters * FLOAT
            for upgrade in suite_cards.read(SUITE).upgrades
            for name in upgrade
        },
        entries.seconds,
        assumed.worker_rate,
        assumed.shared_rate,
        assumed.write_rate,
        assumed.mean_life,
        assumed.restart,
    )
    features, tokens = (
        sum(size for name, size in entries.bytes.items() if name.startswith(kind))
        for kind in ("features", "tokens")
    )
    return Costs(jobs, site, features, tokens, modules, predictions, files + len(entries.seconds))


def _seconds(draw: Draw, measured: Measured, assumed: Assumptions) -> float:
    """A cell's fit and evaluation: as long as on the mini suite, times work, over speed."""
    mini = measured.methods[draw.kind.name]
    faster = assumed.gpu_rate * assumed.gpu_share / measured.core_flops
    fit = mini["fit_seconds"] * draw.work.fit / mini["fit_work"] / faster
    evaluate = mini["evaluate_seconds"] * draw.work.evaluate / mini["evaluate_work"] / faster
    return max(fit, draw.work.steps * assumed.step_seconds) + evaluate


class _Entries:
    """The entries of the feature cache: what each takes to encode and to keep."""

    def __init__(self, measured: Measured, assumed: Assumptions) -> None:
        self._assumed = assumed
        self._cards = {name: task_cards.read(name) for name in task_cards.names()}
        self._views = len(suite_cards.read(SUITE).training.list_views(epochs=1))
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, float] = {}

    def needed(self, draw: Draw) -> tuple[list[str], float]:
        """The entries that a cell needs, and how many bytes of them it reads."""
        counts: dict[str, int] = {**self._cards[draw.task].counts}
        names = []
        for kind, images in (("train", draw.work.train), ("val", draw.work.val)):
            views = (1 + self._views) if kind == "train" else 1
            whole = images >= WHOLE * counts.get(kind, float("inf"))
            where = draw.task if whole else f"{draw.task}, {draw.shots} shots, seed {draw.seed}"
            count = counts[kind] if whole else images
            names += self._add(draw, draw.source, f"{kind} of {where}", count * views)
        for test in draw.test_sets:
            for backbone in draw.backbones:
                count = self._cards[test].counts["test"]
                names += self._add(draw, backbone, f"test of {test}", count)
        return names, sum(self.bytes[name] for name in names)

    def _add(self, draw: Draw, backbone: str, what: str, images: int) -> list[str]:
        size = size_of(backbone)
        names = []
        for kind, flops, width in (
            ("features", size.image_flops, size.embed_dim * FLOAT),
            ("tokens", 0.0, token_bytes(size)),  # what enters the first block costs its decoding
        ):
            if kind == "tokens" and not draw.work.tokens:
                continue
            name = f"{kind} of {backbone}: {what}"
            each = max(1 / self._assumed.image_rate, flops / self._assumed.gpu_rate)
            self.seconds[name] = images * each
            self.bytes[name] = images * width
            names.append(name)
        return names
