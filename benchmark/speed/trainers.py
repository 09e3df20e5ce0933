"""Compare the time of fits of the mini suite with that of the field's trainers.

python benchmark/speed/trainers.py    # writes trainers.json

The trainers (CoOp on Dassl) encode the images of a step in every step, and every class at the whole
context, through open_clip's own text transformer. Methods, recipes, draws and steps are the same,
and so are the modules, except for rounding. Times are CPU seconds of one thread, one fit each, on
an idle machine. Decoding and caching before a fit is not counted on either side.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.text.prompts import Prompts
from compatbench.data.draws import draw_shots
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task
from compatbench.engine.cell import Cell, provenance
from compatbench.engine.plan import plan_cells
from compatbench.engine.predict import predict_module
from compatbench.engine.request import make_request
from compatbench.engine.store import RunStore
from compatbench.engine.task_images import label_tensor
from compatbench.engine.worker import Worker
from compatbench.method import FewShotData, Method, Module
from compatbench.method.registry import builtin_methods

TASK = "mini-objects"
SEED = 1
METHODS = ("coop", "kgcoop", "prograd", "contcoop", "clip_adapter", "taskres")
RESULTS = Path(__file__).parent / "trainers.json"


class OpenClipText:
    """open_clip's text transformer on prompts padded to the whole context."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def encode(self, prompts: Prompts) -> Tensor:
        """Return the text features of prompts, ``[C, e]``."""
        model = self._model
        shared = prompts.shared
        context = len(model.positional_embedding)
        prefix = prompts.prefix.expand(len(prompts.suffix), -1, -1)
        x = torch.cat([prefix, prompts.suffix[:, : context - shared]], dim=1)
        x = F.pad(x, (0, 0, 0, context - x.shape[1])) + model.positional_embedding
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
        ends = torch.tensor(prompts.lengths) + shared - 1
        return x[torch.arange(len(x)), ends] @ model.text_projection


class EncodedInEveryStep:
    """Training images under one view, ``[n, 3, H, W]``, encoded whenever they are used."""

    device = torch.device("cpu")

    def __init__(self, backbone: Backbone, images: Tensor) -> None:
        self._backbone = backbone
        self._images = images

    @torch.no_grad()
    def __getitem__(self, index: Tensor) -> Tensor:
        """Return the features of the images with these indices, ``[batch, e]``."""
        return self._backbone.encode_images(self._images[index])


def decode(backbone: Backbone, cell: Cell) -> list[Tensor]:
    """Return the cell's training images under each view, ``[n, 3, H, W]``."""
    task = load_task(cell.task)
    samples = draw_shots(task, cell.shots, cell.seed).train
    size = backbone.preprocess_settings["size"]
    side = size if isinstance(size, int) else min(size)
    decoded = []
    for view in cell.training.list_views(epochs=1):
        images: list[Any] = []
        for sample in samples:
            image = view.apply(task.source.image(sample), sample.id, side)
            images.append(backbone.preprocess(image))
        decoded.append(torch.stack(images))
    return decoded


def fit(method: Method, backbone: Backbone, data: FewShotData) -> tuple[float, Module]:
    """Fit a module. Return the CPU seconds and the module."""
    start = time.process_time()
    module = method.fit(backbone, data, torch.Generator().manual_seed(SEED))
    return time.process_time() - start, module


def answer_right(method: Method, module: Module, backbone: Backbone, cache: FeatureCache) -> Tensor:
    """Return for each test image whether a module's prediction is right."""
    task = load_task(TASK)
    with torch.no_grad():
        classify = method.attach(module, backbone, task.labels)
        answers = predict_module(classify, backbone, task, cache)
    return answers.classes == label_tensor(task.split("test"))


def main() -> None:
    """Fit every method by both, and write ``trainers.json``."""
    torch.set_num_threads(1)
    registry = builtin_methods()
    fits = {}
    context = 0
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder))
        worker = Worker(RunStore(Path(folder)), cache)
        request = make_request("mini", METHODS, tasks=TASK, seeds=[SEED])
        for cell in plan_cells(request):
            fast = load_backbone(cell.source)
            plain = load_backbone(cell.source)
            plain.text._tower = OpenClipText(plain.model)  # type: ignore[assignment]
            context = fast.text.context_length
            cls = registry.get(cell.method)
            method = cls(cls.Config.model_validate(cell.config))
            data = worker.few_shot_data(cell, fast)
            images = [EncodedInEveryStep(plain, view) for view in decode(plain, cell)]
            train = dataclasses.replace(data.train, views=images)  # type: ignore[arg-type]
            in_step = dataclasses.replace(data, train=train)
            our_seconds, our_module = fit(method, fast, data)
            their_seconds, their_module = fit(method, plain, in_step)
            ours = answer_right(method, our_module, fast, cache)
            theirs = answer_right(method, their_module, fast, cache)
            fits[cell.method] = {
                "trainers": their_seconds,
                "compatbench": our_seconds,
                "correct": int(ours.sum()),
                "correct_trainers": int(theirs.sum()),
                "images": len(ours),
            }
            print(cell.method, fits[cell.method], flush=True)
    facts = {
        "task": TASK,
        "classes": len(load_task(TASK).labels.names),
        "context": context,
        "processor": provenance()["processor"],
        "fits": fits,
    }
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
