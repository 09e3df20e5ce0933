"""Check that checkpoints of authors' code classify alike when imported, and load when exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from whole_fits import Problem, difference

from compatbench.method import Module, convert
from compatbench.method.registry import builtin_methods


def import_file(kind: str, path: Path, problem: Problem, **settings: Any) -> Module:
    """Import a checkpoint of a format, for the problem's backbone and labels."""
    with (
        mock.patch.object(convert, "load_backbone", return_value=problem.backbone),
        mock.patch.object(convert, "task_labels", return_value=problem.labels),
    ):
        return convert.import_module(kind, path, "things", "random", settings=settings)


@torch.no_grad()
def assert_alike(module: Module, problem: Problem, logits: Tensor) -> None:
    """Assert that a module gives these logits for the queries."""
    cls: Any = builtin_methods().get(module.about["method"])
    method = cls(cls.Config.model_validate(module.about["config"]))
    inputs = problem.backbone.encode_images(problem.queries, method.image_input(problem.backbone))
    ours = method.attach(module, problem.backbone, problem.labels)(inputs)
    assert difference({"": ours}, {"": logits}) < 1e-9


def fill(parameters: list[Tensor], scale: float, seed: int) -> None:
    """Fill the parameters of the authors' model with random numbers."""
    assert parameters
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))


def round_trip(kind: str, trainer: Any, problem: Problem, folder: Path, **settings: Any) -> None:
    """Check a checkpoint of random weights: saved by a trainer, imported, exported, and loaded."""

    @torch.no_grad()
    def classify() -> Tensor:
        found = trainer.model.eval()(problem.queries)
        return found[0] if isinstance(found, tuple) else found

    learned = [p for p in trainer.model.parameters() if p.requires_grad]
    fill(learned, 0.3, 5)
    trainer.save_model(0, str(folder))
    module = import_file(kind, folder, problem, **settings)
    assert_alike(module, problem, classify())
    fill(learned, 0.0, 5)
    [name] = trainer.get_model_names()
    path = folder / "back" / name / "model.pth.tar-1"
    convert.export_module(kind, module, path, dtype="float32")
    trainer.load_model(str(folder / "back"), epoch=1)
    assert_alike(import_file(kind, path, problem, **settings), problem, classify())
