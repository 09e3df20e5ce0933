"""What a GPU does with compatbench: rates, encoding, CoOp's step, memory, logits; in gpu.json.

benchmark/speed/gpu.sh     # everything, in under eight minutes
python benchmark/speed/gpu.py --device cpu --tiny --out FILE     # the same in seconds, to try it

Times are read when the device has computed what it was given, and are the medians of rounds.
"""

from __future__ import annotations

import copy
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import typer
from gpu_methods import Places, compare
from PIL import Image
from torch import Tensor
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode
from workload import CONTEXT, cross_entropy, labels_of, make_small, make_workload, read_names

from compatbench.backbone import Backbone
from compatbench.backbone.backbone import PRECISIONS
from compatbench.backbone.build import allow_tf32
from compatbench.backbone.device import wait_for
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.images.source import ImageSource, Sample
from compatbench.data.images.views import View
from compatbench.files.processes import count_cores
from compatbench.method.registry import builtin_methods

RESULTS = Path(__file__).parent / "gpu.json"
HALF = "bf16"  # whose products the card is measured by
BATCH = 32  # images of a step, as in CoOp


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    product: int  # rows and columns of a matrix
    seconds: float  # of rounds, for each figure
    files: int
    views: int
    classes: tuple[int, ...]
    methods: tuple[str, ...] | None = None  # None is all


FULL = Size(8192, 2.0, 8192, 8, (47, 1000))
TINY = Size(128, 0.0, 12, 2, (3, 5), ("zeroshot", "coop", "tip_adapter"))


class Bench:
    """One device, and the figures of it."""

    def __init__(self, device: str, size: Size) -> None:
        self.device, self.size = torch.device(device), size
        workload = make_small("tiny", 32, 64, 1, 2) if size is TINY else make_workload()
        self._model = workload.backbone
        image = torch.zeros(1, 3, *self._model.preprocess_settings["size"], requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            self._model.model.visual(image)  # type: ignore[operator]
        self.image_flops = counter.get_total_flops()

    @contextmanager
    def backbone(self, precision: str) -> Iterator[Backbone]:
        """The model on the device, as ``load_backbone`` would give it."""
        allow_tf32(precision == "tf32")
        model: Any = copy.deepcopy(self._model.model)
        scale = model.logit_scale.detach().clone()
        model = model.to(self.device, PRECISIONS[precision])
        model.logit_scale.data = scale.to(self.device)
        yield Backbone(self._model.card, model, self.device, precision)
        allow_tf32(False)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def time(self, function: Callable[[], object]) -> tuple[float, float | None]:
        """Median seconds of a round, and peak GiB on the device where that is known."""
        timer = Timer("function()", globals={"function": function})
        if self.device.type != "cuda":
            return timer.blocked_autorange(min_run_time=self.size.seconds).median, None
        torch.cuda.reset_peak_memory_stats(self.device)
        seconds = timer.blocked_autorange(min_run_time=self.size.seconds).median
        return seconds, torch.cuda.max_memory_allocated(self.device) / 2**30

    def products(self) -> dict[str, float]:
        """TFLOP/s of a square product in each precision."""
        figures, n = {}, self.size.product
        for name, dtype in PRECISIONS.items():
            allow_tf32(name == "tf32")
            a = torch.randn(n, n, device=self.device).to(dtype)
            seconds, _ = self.time(lambda a=a: torch.mm(a, a))
            figures[name] = 2 * n**3 / seconds / 1e12
        allow_tf32(False)
        return figures

    def encoding(self, rate: float) -> list[dict[str, Any]]:
        """Images a second that are encoded, which are on the device already."""
        rows = []
        for precision in PRECISIONS:
            with self.backbone(precision) as backbone:
                batch = backbone.images_at_once()
                shape = (batch, 3, *backbone.preprocess_settings["size"])
                images = torch.randn(shape, device=self.device).to(backbone.dtype)
                seconds, gib = self.time(lambda b=backbone, i=images: b.encode_images(i))
            speed = batch / seconds
            row = {"precision": precision, "batch": batch, "images_per_second": speed, "gib": gib}
            rows.append(row | {"share": speed * self.image_flops / 1e12 / rate})
        return rows

    def files(self) -> dict[str, Any]:
        """Images a second from JPEG files to features on the disk, by the feature cache."""
        figures: dict[str, Any] = {"files": self.size.files, "decoders": count_cores()}
        with tempfile.TemporaryDirectory() as folder, self.backbone(HALF) as backbone:
            samples = write_images(Path(folder), self.size.files)
            source = ImageSource(Path(folder), {"test": samples})
            task: Any = SimpleNamespace(name="files", source=source)
            cache = FeatureCache(Path(folder) / "cache", decoders=count_cores())
            for count in (1, self.size.views):
                views = [View(1 + count + i) for i in range(count)]
                start = time.perf_counter()
                cache.features_of_views(backbone, task, samples, views)
                wait_for(self.device)
                speed = count * len(samples) / (time.perf_counter() - start)
                figures[f"views_{count}"] = {"views": count, "images_per_second": speed}
        return figures

    def steps(self) -> list[dict[str, Any]]:
        """A step of CoOp: 16 context vectors, 32 images."""
        rows = []
        for classes in self.size.classes:
            names = read_names("imagenet" if classes > 47 else "dtd")[:classes]
            for precision in ("fp32", "fp16") if self.device.type == "cuda" else ("fp32",):
                row: dict[str, Any] = {"classes": classes, "precision": precision}
                with self.backbone(precision) as backbone:
                    row["seconds"], row["gib"] = self.time(coop_step(backbone, names))
                rows.append(row)
        return rows

    def logits(self) -> dict[str, float]:
        """How far each method's logits on the device are from a processor's."""
        registry, places = builtin_methods(), Places(self.device)
        names = self.size.methods or registry.names()
        return {name: compare(registry.get(name), places) for name in names}


def write_images(folder: Path, count: int) -> list[Sample]:
    """JPEG files of 500 × 375 pixels, as in ImageNet; 64 different ones."""
    random, contents = np.random.default_rng(0), []
    for _ in range(min(count, 64)):
        coarse = random.integers(0, 256, (25, 33, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(buffer := io.BytesIO(), "jpeg", quality=90)
        contents.append(buffer.getvalue())
    samples = [Sample(f"{number}.jpg", 0) for number in range(count)]
    for number, sample in enumerate(samples):
        (folder / sample.id).write_bytes(contents[number % len(contents)])
    return samples


def coop_step(backbone: Backbone, names: tuple[str, ...]) -> Callable[[], None]:
    """A step whose image features are at hand."""
    labels, rng = labels_of(names), torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng).to(backbone.device)

    context = (0.02 * draw(CONTEXT, backbone.token_width)).requires_grad_()
    images, optimiser = draw(BATCH, backbone.embed_dim), torch.optim.SGD([context], lr=0.002)
    targets = torch.arange(BATCH, device=backbone.device) % len(names)

    def step() -> None:
        optimiser.zero_grad()
        texts = backbone.encode_prompts(backbone.prompts(labels, context))
        cross_entropy(images, texts, targets, backbone.logit_scale).backward()
        optimiser.step()

    return step


def measure(device: str, size: Size) -> dict[str, Any]:
    """All figures of a device."""
    start, bench = time.perf_counter(), Bench(device, size)
    figures: dict[str, Any] = {"torch": torch.__version__, "cores": count_cores()}
    parts: dict[str, Callable[[], Any]] = {
        "products": bench.products,
        "encoding": lambda: bench.encoding(figures["products"][HALF]),
        "files": bench.files,
        "steps": bench.steps,
        "logits": bench.logits,
    }
    for name, part in parts.items():
        figures[name] = part()
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return figures | {"seconds": time.perf_counter() - start}


def main(device: str = "cuda", tiny: bool = False, out: Path = RESULTS) -> None:
    """Measure a device, beside the cards that the file holds; --tiny: little of everything."""
    torch.set_num_threads(1)
    card = torch.cuda.get_device_name(device) if "cuda" in device else device
    figures = measure(device, TINY if tiny else FULL)
    cards = json.loads(out.read_text()) if out.is_file() else {}
    out.write_text(json.dumps(cards | {card: figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
