"""Methods on features and class weights beside their authors' trainers, which are Dassl's."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from checkout import Checkout, Loader, under
from feature_loaders import ViewSet
from torch import Tensor
from whole_fits import NAMES, Compare, ImageBatch, fit, make, pose

from compatbench.data.cards import task_cards
from compatbench.methods.clap import CLAP
from compatbench.methods.clip_adapter import CLIPAdapter
from compatbench.methods.graph_adapter import GraphAdapter
from compatbench.methods.taskres import TaskRes
from compatbench.methods.zs_lp import ZSLP

# The dataset of which they average over templates: its own, and seven that Tip-Adapter chose.
IMAGENET = task_cards.read("imagenet").templates
COOP = "KaiyangZhou/CoOp"  # in whose folder of trainers the authors' files are meant to lie


@pytest.mark.authors("gaopengcuhk/CLIP-Adapter")
def test_clip_adapter(checkout: Checkout, compare: Compare) -> None:
    problem = pose(embed_dim=1024)  # their adapter has no other size
    ours = fit(make(CLIPAdapter), problem)
    name = "clip_adapter:CLIP_Adapter"
    with checkout.trainer(name, problem, ours, {}, beside=[COOP]) as trainer:
        down, up = (trainer.model.adapter.fc[i].weight for i in (0, 2))
        down.data.copy_(ours.start["down"])
        up.data.copy_(ours.start["up"])
        trainer.train()
        logits = trainer.model.eval()(problem.queries)
    compare(ours, dict(down=down, up=up), logits)


@pytest.mark.authors("geekyutao/TaskRes")
def test_taskres(checkout: Checkout, compare: Compare) -> None:
    problem = pose(templates=IMAGENET)
    ours = fit(make(TaskRes, templates="all"), problem)
    settings = under("TaskRes", PREC="fp32", RESIDUAL_SCALE=0.5, ENHANCED_BASE="none")
    settings["DATASET.NAME"] = "ImageNet"
    with checkout.trainer("trainers.taskres:TaskRes", problem, ours, settings) as trainer:
        trainer.train()
        residual = trainer.model.prompt_learner.text_feature_residuals
        logits = trainer.model.eval()(problem.queries)
    compare(ours, dict(residual=residual), logits)


@pytest.mark.authors("jusiro/CLAP")
@pytest.mark.parametrize(("method", "constraint"), [(ZSLP, "none"), (CLAP, "l2")])
def test_clap(
    checkout: Checkout,
    compare: Compare,
    monkeypatch: pytest.MonkeyPatch,
    method: type[ZSLP],
    constraint: str,
) -> None:
    problem = pose(views=3, templates=IMAGENET)
    ours = fit(make(method, dict(pool_views=True), templates="all"), problem)
    settings = under("ADAPTER", PREC="fp32", INIT="ZS", CONSTRAINT=constraint, ENHANCED_BASE="none")
    settings["DATASET.NAME"] = "ImageNet"
    images = ViewSet(problem)
    loader = Loader(ours.batches)
    vars(loader).update(dataset=images, sampler=range(len(images)), num_workers=0)
    vars(loader).update(batch_size=8, pin_memory=False)
    tests = [{"img": problem.queries, "label": torch.arange(len(problem.queries))}]
    data = dict(train_loader_x=loader, test_loader=tests)
    with checkout.trainer("trainers.adapters:ADAPTER", problem, ours, settings, **data) as trainer:
        trainer.model.adapter.epochs_aumentation = len(problem.images)
        trainer.time_start = 0.0
        monkeypatch.setattr(np.random, "rand", Draws(ours.batches))
        trainer.train()
        logits = trainer.model.eval()(problem.queries)
    compare(ours, dict(weights=trainer.model.adapter.prototypes), logits)
    if constraint != "none":
        expected = trainer.model.adapter.alpha_constraint
        torch.testing.assert_close(ours.module["multipliers"], expected, rtol=1e-10, atol=0)


class Draws:
    """Numbers whose order are the rows of our next epoch among all views, and then all others."""

    def __init__(self, epochs: list[list[ImageBatch]]) -> None:
        self.epochs = iter(epochs)

    def __call__(self, count: int) -> np.ndarray:
        rows = torch.cat([batch.rows for batch in next(self.epochs)])
        numbers = np.full(count, float(count))
        numbers[rows.numpy()] = np.arange(len(rows))
        return numbers


@pytest.mark.authors("lixinustc/GraphAdapter")
def test_graph_adapter(
    checkout: Checkout, compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (*NAMES, "violin", "river", "bread")  # they ask for a multiple of four, and e = 512
    problem = pose(views=5, names=names, embed_dim=512)
    ours = fit(make(GraphAdapter, node_views=2), problem)

    def base_text_features(*_: Any) -> Tensor:
        """Is called by the published file, and missing from it; as in TaskRes."""
        return problem.backbone.text_features(problem.labels.fill())

    monkeypatch.setattr(builtins, "_get_base_text_features", base_text_features, raising=False)
    eye = torch.eye
    monkeypatch.setattr(torch, "eye", lambda size, device="": eye(size))
    # Their means are over ten passes, before the first epoch.
    nodes = [ImageBatch(one, one, problem.targets, problem.targets) for one in problem.images[-2:]]
    loader = Loader(5 * [[one] for one in nodes] + ours.batches)
    loader.steps = len(ours.batches[0])
    settings = under("COOP", PREC="fp32") | under("GRAPHADAPTER", BETA=0.7)
    with checkout.trainer(
        "GraphAdapter.baseclip_graph_v1:GraphCLIP_v1",
        problem,
        ours,
        settings,
        inside="..",
        beside=[COOP],
        absent=["GraphAdapter.coop", "GraphAdapter.imagenet_templates"],
        train_loader_x=loader,
    ) as trainer:
        graphs = {
            "text": trainer.model.graph_learner.GCN_tt,
            "image": trainer.model.graph_learner.GCN_it,
        }
        for kind, graph in graphs.items():
            graph.gcn_weights.data.copy_(ours.start[f"{kind}_weight"])
        trainer.train()
        logits = trainer.model.eval()(problem.queries)
    theirs = {f"{kind}_weight": graph.gcn_weights for kind, graph in graphs.items()}
    theirs |= {f"{kind}_bias": graph.gcn_bias for kind, graph in graphs.items()}
    compare(ours, theirs, logits)
