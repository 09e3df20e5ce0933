"""Hours of a suite on one GPU, part by part: each is counted, and divided by a stated rate."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from compatbench.engine.costs import CLOSED_FORM_SECONDS, Costs, count_work
from compatbench.engine.matrix import Matrix
from compatbench.errors import CompatbenchError

HOUR = 3600.0
TABLE = Path(__file__).with_name("launches.csv")  # benchmark/scale/launches.py writes it


class Launches(NamedTuple):
    """Operations of a step that start kernels: beside the blocks of towers, and for each block."""

    fixed: int
    per_block: float


@cache
def read_launches() -> dict[str, Launches]:
    """Of each method that is trained."""
    with TABLE.open(newline="") as file:
        _, *lines = csv.reader(file)
    return {name: Launches(int(fixed), float(each)) for name, fixed, each in lines}


class DeviceModel(NamedTuple):
    """A machine with one GPU, by its rates."""

    peak_flops: Mapping[str, float]  # a second, of dense products, by precision
    source: str  # of these
    share: float = 0.5  # of the peak that products of towers reach: assumed
    # Of an operation that is started from Python; assumed, the order of CUDA's own launches.
    launch_seconds: float = 5e-6
    # Views of images a second on a core: measured, eight of each JPEG file of 500 × 375 pixels.
    views: float = 400.0
    cores: int = 16

    def flops(self, precision: str) -> float:
        """Operations a second that products of towers reach."""
        return self.peak_flops[precision] * self.share

    @property
    def image_rate(self) -> float:
        """Views of images a second, on all cores."""
        return self.views * self.cores

    def describe(self, precision: str) -> list[tuple[str, str, str]]:
        """Each rate, with its source."""
        share = f"{self.share:.0%} of {self.source}"
        return [
            ("products", f"{self.flops(precision):.3g} FLOP/s", share),
            ("launches", f"{self.launch_seconds * 1e6:g} µs", "assumed, of each operation"),
            ("views", f"{self.image_rate:,.0f} 1/s", f"measured, {self.cores} cores"),
        ]


DEVICE_MODELS = {
    "h100": DeviceModel(
        {"fp32": 67e12, "tf32": 494.7e12, "bf16": 989.4e12, "fp16": 989.4e12},
        "the peak of NVIDIA's data sheet, H100 SXM, without sparsity",
    ),
    "a100": DeviceModel(
        {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12, "fp16": 312e12},
        "the peak of NVIDIA's data sheet, A100 SXM, without sparsity",
    ),
}


def find_device_model(name: str) -> DeviceModel:
    """The model of this name, whose case does not matter."""
    if (model := DEVICE_MODELS.get(name.lower())) is None:
        raise CompatbenchError(f"device model '{name}': choose from {', '.join(DEVICE_MODELS)}")
    return model


def time_cells(matrix: Matrix, model: DeviceModel, precision: str) -> pd.DataFrame:
    """Seconds of the cells of a matrix, images aside, in a row each.

    Columns: ``method``; ``products`` and ``launches`` of its training steps, of which the longer
    counts, for the processor starts operations while the GPU computes; ``other``, answers and fits
    in closed form; ``seconds`` in all. Products of a step are those of its towers,
    in their precision.
    """
    rate, table, count = model.flops(precision), read_launches(), count_work(matrix)
    rows = []
    for cell in matrix.places:
        work, launches = count(cell), table.get(cell.method, Launches(0, 0.0))
        products = work.steps * work.step_flops / rate
        each = launches.fixed + launches.per_block * work.depth
        starts = work.steps * each * model.launch_seconds
        other = work.test_flops / rate + work.closed_forms * CLOSED_FORM_SECONDS
        rows.append((cell.name, products, starts, other, max(products, starts) + other))
    return pd.DataFrame(rows, columns=["method", "products", "launches", "other", "seconds"])


def estimate_hours(
    matrix: Matrix, costs: Costs, model: DeviceModel, precision: str
) -> pd.DataFrame:
    """Hours by method, and in the last row those of all cells with their images.

    Columns: those of ``time_cells``; ``decode`` and ``encode``, of which the longer counts; and
    ``hours`` in all.
    """
    times = time_cells(matrix, model, precision).rename(columns={"seconds": "hours"})
    frame = times.groupby("method", sort=False).sum() / HOUR
    total = frame.sum()
    decode = costs.images / model.image_rate / HOUR
    encode = costs.encode_flops / model.flops(precision) / HOUR
    total["hours"] += max(decode, encode)
    frame.loc["all"] = total
    frame["decode"], frame["encode"] = 0.0, 0.0
    frame.loc["all", ["decode", "encode"]] = decode, encode
    return frame.reset_index()
