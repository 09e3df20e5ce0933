"""The table of operations in a training step that ``compatbench plan --device-model`` reads.

python benchmark/scale/launches.py               # of every method that is trained
python benchmark/scale/launches.py coop maple    # prints those of some, and writes nothing

Each operation that computes starts a kernel or several on a GPU. They are counted on a processor,
on tiny models 12 and 24 blocks deep, in the last of three steps: the forward pass, the backward
pass and the optimiser, whose loops over tensors are one operation each, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any
from unittest import mock

import pandas as pd
import torch
import typer
from operations import count_steps

from compatbench.backbone.image import image_anatomy
from compatbench.engine.gpu_hours import TABLE, Launches
from compatbench.extras.check import models
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.method import Method
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod

DEPTHS = 12, 24


def count_step(cls: type[Method], depth: int) -> int:
    """Operations of the last step of a fit, on towers so many blocks deep."""
    subject = MethodUnderTest(cls)
    with mock.patch.object(models, "LAYERS", depth):
        subject.source = models.build_clip(f"deep-{depth}", seed=1)
    foreach = "torch.optim.optimizer._get_foreach_kernels_supported_devices"
    # Attention in one operation, as for images of more tokens, and optimisers as on a GPU.
    fused = mock.patch.object(image_anatomy, "FEW_TOKENS", 0)
    with mock.patch(foreach, return_value=["cpu"]), fused, count_steps() as counter:
        subject.fit()
    return counter.at_steps[-1] - counter.at_steps[-2]


def count(cls: type[Method]) -> Launches:
    """Operations of a step beside the blocks of towers, and for each block."""
    few, many = (count_step(cls, depth) for depth in DEPTHS)
    each = (many - few) / (DEPTHS[1] - DEPTHS[0])
    return Launches(round(few - each * DEPTHS[0]), round(each, 1))


def count_trained(names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Operations of those of the methods that are trained, by method."""
    for name in names:
        cls = builtin_methods().get(name)
        if issubclass(cls, TrainedMethod):
            yield name, *count(cls)


def main(names: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Count the operations of training steps."""
    torch.set_num_threads(1)
    counted = []
    for row in count_trained(names or builtin_methods().names()):
        counted.append(row)
        print(*row, sep=",", flush=True)
    if not names:
        frame = pd.DataFrame(counted, columns=["method", *Launches._fields])
        TABLE.write_text(frame.to_csv(index=False, lineterminator="\n"), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
