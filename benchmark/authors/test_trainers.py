"""Methods beside their authors' trainers, which are Dassl's."""

from __future__ import annotations

import builtins
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from checkout import Checkout, Loader, Parts, give, named, pace, take, under
from checkpoints import round_trip
from feature_loaders import ViewSet
from torch import Tensor, nn
from trainers import Small, beside_authors, coupled_parts, deep_prompts, read_small, run
from whole_fits import NAMES, ImageBatch, Problem, fit, pose, recording

from compatbench.data.cards import suite_cards, task_cards
from compatbench.engine.method_settings import resolve_settings
from compatbench.method import DENSE, Labels, Module
from compatbench.method.registry import builtin_methods
from compatbench.methods.mergetune import MergeTune
from compatbench.methods.plot import PLOT

ROWS = read_small()
VIT_B = next(row.sizes for row in ROWS["once"] if row.method == "maple")
COOP = "KaiyangZhou/CoOp"  # in whose folder of trainers the authors' files are meant to lie


def run_with_file(checkout: Checkout, small: Small, problem: Problem | None = None) -> Any:
    """As ``run``; then the trainer saves a checkpoint that we read, and reads ours."""

    def after(trainer: Any, problem: Problem) -> None:
        if small.imported is not None:
            kind = "vpt" if small.method == "vpt_deep" else small.method
            round_trip(kind, trainer, problem, checkout.scratch, **small.imported)

    return run(checkout, small, problem, after=after)


@pytest.mark.parametrize("small", [*map(beside_authors, ROWS["once"])])
def test_a_trainer(small: Small, checkout: Checkout) -> None:
    checkout.compare(*run_with_file(checkout, small), name=small.row)


@pytest.mark.parametrize("small", [*map(beside_authors, ROWS["every_task"])])
def test_every_task(small: Small, checkout: Checkout) -> None:
    """With each task's settings, templates and the authors' words for it."""
    mine, theirs, logits, steps, start = {}, {}, [], 0, pose(**small.sizes)
    cls, suite = builtin_methods().get(small.method), suite_cards.read("paper")
    for task in suite.tasks:
        card = task_cards.read(task)
        teacher = card.teacher_template or card.templates[0]
        labels = Labels(start.labels.names, card.templates, teacher)
        config = resolve_settings(cls, suite, task=task).config | {"max_steps": None}
        config.pop("recipe")
        on_task = replace(small, task=task, config=config)
        go = run_with_file if task == small.task else run
        ours, found, other = go(checkout, on_task, replace(start, labels=labels))
        mine |= {f"{task} {name}": ours.module[name] for name in found}
        theirs |= {f"{task} {name}": tensor for name, tensor in found.items()}
        logits.append((ours.logits, other))
        steps += ours.steps
    own, other = (torch.cat(parts) for parts in zip(*logits, strict=True))
    more: Any = dict(parameters=mine, name=f"{small.method}, {len(logits)} tasks", steps=steps)
    checkout.compare(replace(ours, logits=own), theirs, other, **more)


class FarPLOT(PLOT):
    """Contexts that differ enough for plans that are not uniform."""

    def init(self, *args: Any) -> Module:
        return Module({"contexts": 25 * super().init(*args)["contexts"]})


class DenseImages(nn.Module):
    """The features of an image and of its patches, as PLOT's changed ResNet gives them."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.backbone = problem.backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.encode_images(images, DENSE).transpose(0, 1)


@pytest.mark.authors("CHENGY12/PLOT")
@pytest.mark.parametrize("pooled", [False, True])
def test_plot(checkout: Checkout, pooled: bool) -> None:
    """So few steps that the authors do not stop early: they stop for a batch, we per image."""
    problem = pose()

    def prepare(trainer: Any) -> None:
        trainer.model.image_encoder, trainer.model.max_iter = DenseImages(problem), 3

    small = Small(
        "plot",
        named(contexts="prompt_learner.ctx"),
        under("PLOT", N_CTX=4),
        task="imagenet" if pooled else "caltech101",
        config=dict(sinkhorn_steps=3, tolerance=0.0, pooled=pooled),
    )
    fits = run(checkout, small, problem, method=FarPLOT, prepare=prepare)
    checkout.compare(*fits, name=f"plot{', pooled' if pooled else ''}")


@pytest.mark.authors("CHENGY12/PLOT")
def test_plot_pp(checkout: Checkout) -> None:
    """Both stages; so few steps of Sinkhorn's that the authors do not stop early."""
    problem = pose(views=1, image_width=768, names=NAMES[:3], layers=2)
    changes = pace(3, 4) | under("PLOTPP", M=2, PRETRAIN_DIR="")
    published = checkout.published("plot_pp", changes)
    published.tree.DEVICE = "cpu"  # an option of theirs
    method = published.method(sinkhorn_steps=3, tolerance=0.0)
    ours, logits = fit(method, problem), torch.empty(0)
    find = named(contexts="prompt_learner.ctx", image_prompts="prompt_learner.ctx_vision")
    found: Any = ours.start
    stages = zip((ours.batches[:3], ours.batches[3:]), ("vision", "joint"), strict=True)
    for batches, part in stages:
        published.change(under("PLOTPP", TRADE_OFF=part == "vision", MODEL_UPD=part))
        with checkout.trainer(published, problem, replace(ours, batches=batches)) as theirs:
            theirs.model.max_iter = 3
            give(find(theirs.model), found)
            theirs.train()
            found, logits = take(find(theirs.model)), theirs.model.eval()(problem.queries)
    checkout.compare(ours, found, logits)


@pytest.mark.authors("Surrey-UP-Lab/MERGETUNE")
def test_mergetune(checkout: Checkout) -> None:
    """Their CoOp, and then their further training from its context."""
    brisk = MergeTune.Config().coop_recipe.model_copy(update=dict(epochs=6, batch_size=8))
    problem, published = pose(), checkout.published("mergetune")
    published.tree.RESUME_COOP = None
    ours = fit(published.method(coop_recipe=brisk), problem)
    first, second = (replace(ours, batches=part) for part in (ours.batches[:6], ours.batches[6:]))
    assert len(second.batches) == 6
    find = named(context="prompt_learner.ctx")
    with checkout.trainer(published, problem, first, name="trainers.coop:CoOp") as trainer:
        give(find(trainer.model), ours.start)
        trainer.train()
        coop = take(find(trainer.model))
    find = named(context="prompt_mid_learner.ctx")
    with checkout.trainer(published, problem, second) as trainer:
        trainer.after_train = lambda: None  # theirs chooses an epoch
        for learner in ("prompt_learner", "prompt_mid_learner"):
            give(named(context=f"{learner}.ctx")(trainer.model), coop)
        trainer.train()
        logits, _ = trainer.model.eval()(problem.queries)
    checkout.compare(ours, take(find(trainer.model)), logits)


@pytest.mark.authors("muzairkhattak/ProText")
def test_protext(checkout: Checkout) -> None:
    """As many sentences as shots, so that both are drawn alike."""
    problem = pose()
    words = ("with fur", "in red light", "at night", "of stone")
    sentences = [tuple(f"{name} {one}." for one in words) for name in problem.labels.names]
    problem = replace(problem, labels=replace(problem.labels, descriptions=tuple(sentences)))
    tokenize: Any = open_clip.get_tokenizer("ViT-B-16")
    inputs = tokenize(list(problem.labels.fill()))
    outputs = tokenize([one for own in sentences for one in own])

    class Sentences(Loader):
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            for batch in next(self.epochs):
                rows = inputs[batch.targets], outputs[batch.rows]
                yield dict(zip(("input_text", "output_text"), rows, strict=True))

    def find(model: Any) -> Parts:
        deep = deep_prompts(model.text_encoder.transformer)
        return {"prompts": [model.prompt_learner.ctx, *deep]}

    # On the task's own file, its context has the four words that it starts at.
    small = Small("protext", find, {"OPTIM.WARMUP_EPOCH": 2}, task="oxford_pets")
    checkout.compare(*run(checkout, small, problem, loader=Sentences))


class PairLoader(Loader):
    """CoPrompt's: each image under two views."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in super().__iter__():
            yield batch | {"img": (batch["img"], batch["img2"])}


@pytest.mark.authors("ShuvenduRoy/CoPrompt")
def test_coprompt(checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors' sentences by GPT are our templates; both draw the same ones."""
    problem, drawn = pose(**VIT_B), []

    def find(model: Any) -> Parts:
        image, text = model.adapter_image.fc, model.adapter_text.fc
        adapters = dict(image_down=image[0], image_up=image[2], text_down=text[0], text_up=text[2])
        return coupled_parts(model) | {name: layer.weight for name, layer in adapters.items()}

    labels = problem.labels
    sentences = {name: [one.format(name) for one in labels.templates] for name in labels.names}
    (tmp_path / "gpt_file").mkdir()
    (tmp_path / "gpt_file/caltech_prompt.json").write_text(json.dumps(sentences))
    monkeypatch.chdir(tmp_path)
    ours_first = (int(number) for number in drawn)
    monkeypatch.setattr(random, "randint", lambda *_: next(ours_first))
    small = Small("coprompt", find, pace(4, 4) | under("CoPrompt", PROMPT_DEPTH=2))
    with recording(torch, "randint", drawn):
        checkout.compare(*run(checkout, small, problem, loader=PairLoader))


@pytest.mark.authors("jusiro/CLAP")
@pytest.mark.parametrize("method", ["zs_lp", "clap"])
def test_clap(checkout: Checkout, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    templates = task_cards.read("imagenet").templates
    problem, adapters = pose(views=3, templates=templates), []
    images = ViewSet(problem)

    def load(batches: list[list[ImageBatch]]) -> Loader:
        loader = Loader(batches)
        vars(loader).update(dataset=images, sampler=range(len(images)), num_workers=0)
        vars(loader).update(batch_size=8, pin_memory=False)
        monkeypatch.setattr(np.random, "rand", Draws(batches))
        return loader

    def prepare(trainer: Any) -> None:
        adapters.append(trainer.model.adapter)
        adapters[0].epochs_aumentation = len(problem.images)
        trainer.time_start = 0.0

    small = Small(
        method,
        named(weights="adapter.prototypes"),
        task="imagenet",
        config=dict(templates="all"),
        recipe=dict(pool_views=True),
    )
    tests = [{"img": problem.queries, "label": torch.arange(len(problem.queries))}]
    fits = run(checkout, small, problem, loader=load, prepare=prepare, test_loader=tests)
    checkout.compare(*fits)
    if method == "clap":
        expected, found = adapters[0].alpha_constraint, fits[0].module["multipliers"]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


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
def test_graph_adapter(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (*NAMES, "violin", "river", "bread")  # they ask for a multiple of four, and e = 512
    problem = pose(views=5, names=names, embed_dim=512)

    def base_text_features(*_: Any) -> Tensor:
        """Is called by the published file, and missing from it; as in TaskRes."""
        return problem.backbone.text_features(problem.labels.fill())

    monkeypatch.setattr(builtins, "_get_base_text_features", base_text_features, raising=False)
    eye = torch.eye
    monkeypatch.setattr(torch, "eye", lambda size, device="": eye(size))
    # Their means are over ten passes, before the first epoch.
    nodes = [ImageBatch(one, one, problem.targets, problem.targets) for one in problem.images[-2:]]

    def with_nodes(batches: list[list[ImageBatch]]) -> Loader:
        loader = Loader(5 * [[one] for one in nodes] + batches)
        loader.steps = len(batches[0])
        return loader

    graphs = {"text": "graph_learner.GCN_tt", "image": "graph_learner.GCN_it"}
    parts = {f"{kind}_weight": f"{graph}.gcn_weights" for kind, graph in graphs.items()}
    parts |= {f"{kind}_bias": f"{graph}.gcn_bias" for kind, graph in graphs.items()}
    changes = {"OPTIM.NAME": "adam", "OPTIM.LR": 1e-3, "TRAINER.GRAPHADAPTER.BETA": 0.7}
    small = Small("graph_adapter", named(**parts), changes, config=dict(node_views=2))
    absent = ["GraphAdapter.coop", "GraphAdapter.imagenet_templates"]
    checkout.compare(
        *run(checkout, small, problem, inside="..", beside=[COOP], absent=absent, loader=with_nodes)
    )
