"""Methods fit as their authors' trainers do, which are Dassl's."""

from __future__ import annotations

import builtins
import json
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack
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
COOP = "KaiyangZhou/CoOp"  # the authors' files belong into its folder of trainers


def run_with_file(checkout: Checkout, small: Small, problem: Problem | None = None) -> Any:
    """Run both fits, then let the trainer save a checkpoint that we read, and read ours."""

    def after(trainer: Any, problem: Problem) -> None:
        if small.imported is not None:
            kind = "vpt" if small.method == "vpt_deep" else small.method
            round_trip(kind, trainer, problem, checkout.scratch, **small.imported)

    return run(checkout, small, problem, after=after)


@pytest.mark.parametrize("small", [*map(beside_authors, ROWS["once"])])
def test_a_fit_equals_that_of_the_trainer(small: Small, checkout: Checkout) -> None:
    checkout.compare(*run_with_file(checkout, small), name=small.row)


@pytest.mark.parametrize("small", [*map(beside_authors, ROWS["every_task"])])
def test_fits_on_every_task_equal_those_of_the_trainer(small: Small, checkout: Checkout) -> None:
    """Each task has its own settings, templates and prompt of the teacher."""
    start = pose(**small.sizes)
    cls = builtin_methods().get(small.method)
    suite = suite_cards.read("paper")
    our_parameters: dict[str, Tensor] = {}
    their_parameters: dict[str, Tensor] = {}
    our_logits = []
    their_logits = []
    steps = 0
    for task in suite.tasks:
        card = task_cards.read(task)
        teacher = card.teacher_template or card.templates[0]
        labels = Labels(start.labels.names, card.templates, teacher)
        config = resolve_settings(cls, suite, task=task).config | {"max_steps": None}
        config.pop("recipe")
        on_task = replace(small, task=task, config=config)
        run_both = run_with_file if task == small.task else run
        ours, found, logits = run_both(checkout, on_task, replace(start, labels=labels))
        for name, tensor in found.items():
            our_parameters[f"{task} {name}"] = ours.module[name]
            their_parameters[f"{task} {name}"] = tensor
        our_logits.append(ours.logits)
        their_logits.append(logits)
        steps += ours.steps
    checkout.compare(
        replace(ours, logits=torch.cat(our_logits)),
        their_parameters,
        torch.cat(their_logits),
        parameters=our_parameters,
        name=f"{small.method}, {len(our_logits)} tasks",
        steps=steps,
    )


class FarPLOT(PLOT):
    """PLOT with contexts that differ enough for transport plans that are not uniform."""

    def init(self, *args: Any) -> Module:
        """Return contexts further apart."""
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
    """There are so few steps that nobody stops early. The authors stop per batch, we per image."""
    problem = pose()

    def prepare(trainer: Any) -> None:
        trainer.model.image_encoder = DenseImages(problem)
        trainer.model.max_iter = 3

    small = Small(
        "plot",
        named(contexts="prompt_learner.ctx"),
        under("PLOT", N_CTX=4),
        task="imagenet" if pooled else "caltech101",
        config=dict(sinkhorn_steps=3, tolerance=0.0, pooled=pooled),
    )
    fits = run(checkout, small, problem, method=FarPLOT, prepare=prepare)
    checkout.compare(*fits, name="plot, pooled" if pooled else "plot")


@pytest.mark.authors("CHENGY12/PLOT")
def test_plot_pp(checkout: Checkout) -> None:
    """Both stages, with so few steps of Sinkhorn's algorithm that nobody stops early."""
    problem = pose(views=1, image_width=768, names=NAMES[:3], layers=2)
    changes = pace(3, 4) | under("PLOTPP", M=2, PRETRAIN_DIR="")
    published = checkout.published("plot_pp", changes)
    published.tree.DEVICE = "cpu"  # an option of the authors' command
    ours = fit(published.method(sinkhorn_steps=3, tolerance=0.0), problem)
    logits = torch.empty(0)
    find = named(contexts="prompt_learner.ctx", image_prompts="prompt_learner.ctx_vision")
    found: Any = ours.start
    for batches, part in ((ours.batches[:3], "vision"), (ours.batches[3:], "joint")):
        published.change(under("PLOTPP", TRADE_OFF=part == "vision", MODEL_UPD=part))
        with checkout.trainer(published, problem, replace(ours, batches=batches)) as theirs:
            theirs.model.max_iter = 3
            give(find(theirs.model), found)
            theirs.train()
            found = take(find(theirs.model))
            logits = theirs.model.eval()(problem.queries)
    checkout.compare(ours, found, logits)


@pytest.mark.authors("Surrey-UP-Lab/MERGETUNE")
def test_mergetune(checkout: Checkout) -> None:
    """The authors' CoOp, and then their further training from its context."""
    short = MergeTune.Config().coop_recipe.model_copy(update=dict(epochs=6, batch_size=8))
    problem = pose()
    published = checkout.published("mergetune")
    published.tree.RESUME_COOP = None
    ours = fit(published.method(coop_recipe=short), problem)
    first = replace(ours, batches=ours.batches[:6])
    second = replace(ours, batches=ours.batches[6:])
    assert len(second.batches) == 6
    find = named(context="prompt_learner.ctx")
    with checkout.trainer(published, problem, first, name="trainers.coop:CoOp") as trainer:
        give(find(trainer.model), ours.start)
        trainer.train()
        coop = take(find(trainer.model))
    find = named(context="prompt_mid_learner.ctx")
    with checkout.trainer(published, problem, second) as trainer:
        trainer.after_train = lambda: None  # the authors' function chooses an epoch
        for learner in ("prompt_learner", "prompt_mid_learner"):
            give(named(context=f"{learner}.ctx")(trainer.model), coop)
        trainer.train()
        logits, _ = trainer.model.eval()(problem.queries)
    checkout.compare(ours, take(find(trainer.model)), logits)


@pytest.mark.authors("muzairkhattak/ProText")
def test_protext(checkout: Checkout) -> None:
    """There are as many sentences as shots, so that both are drawn alike."""
    problem = pose()
    words = ("with fur", "in red light", "at night", "of stone")
    sentences = [tuple(f"{name} {one}." for one in words) for name in problem.labels.names]
    problem = replace(problem, labels=replace(problem.labels, descriptions=tuple(sentences)))
    tokenize: Any = open_clip.get_tokenizer("ViT-B-16")
    inputs = tokenize(list(problem.labels.fill()))
    outputs = tokenize([one for own in sentences for one in own])

    class Sentences(Loader):
        """A loader of prompts and sentences in place of images."""

        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            for batch in next(self.epochs):
                yield {
                    "input_text": inputs[batch.targets],
                    "output_text": outputs[batch.rows],
                }

    def find(model: Any) -> Parts:
        deep = deep_prompts(model.text_encoder.transformer)
        return {"prompts": [model.prompt_learner.ctx, *deep]}

    # With the file of this task, the context starts from words, of which it has four.
    small = Small("protext", find, {"OPTIM.WARMUP_EPOCH": 2}, task="oxford_pets")
    checkout.compare(*run(checkout, small, problem, loader=Sentences))


class PairLoader(Loader):
    """The loader of CoPrompt: each image comes under two views."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in super().__iter__():
            yield batch | {"img": (batch["img"], batch["img2"])}


@pytest.mark.authors("ShuvenduRoy/CoPrompt")
def test_coprompt(checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our templates stand in for the authors' sentences by GPT. Both sides draw the same ones."""
    problem = pose(**VIT_B)
    drawn: list[Any] = []

    def find(model: Any) -> Parts:
        image = model.adapter_image.fc
        text = model.adapter_text.fc
        return coupled_parts(model) | {
            "image_down": image[0].weight,
            "image_up": image[2].weight,
            "text_down": text[0].weight,
            "text_up": text[2].weight,
        }

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


@pytest.mark.authors("Jahid12012021/VLM-HeBA")
@pytest.mark.parametrize("size", [8, 2])
def test_heba(checkout: Checkout, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Without adapters in MLPs. Templates stand in for CuPL's sentences; both sides draw alike.

    A batch of two images compares with some of the five classes.
    """
    sentences = ["on grass.", "at night."]
    templates = [f"a photo of a {{}}, {one}" for one in sentences]
    problem = pose(templates=templates)
    drawn: dict[str, list[Tensor]] = {"rand": [], "randint": [], "randperm": []}
    changes = pace(3, size) | under("HeBA", ADAPTER_END=3, NEG_SAMPLING_RATIO=1)
    published = checkout.published("heba", changes)
    with ExitStack() as stack:
        for name, values in drawn.items():
            stack.enter_context(recording(torch, name, values))
        ours = fit(published.method(), problem)

    def find(model: Any) -> Parts:
        parts: Parts = {}
        learner = model.adapter_learner
        for tower, adapters in (("text", learner.text_adapter), ("image", learner.visual_adapter)):
            own = [adapters[block].att_conv for block in (1, 2, 3)]
            for kind in ("down", "up"):
                weights = [getattr(one, kind).weight for one in own]
                parts[f"{tower}_{kind}"] = [weight.flatten(1) for weight in weights]
            parts[f"{tower}_norm"] = [one.norm.weight for one in own]
            parts[f"{tower}_norm_bias"] = [one.norm.bias for one in own]
        parts["image_mix"] = [one.mid.weight for one in own]
        return parts

    # The start is drawn with more dimensions, and the batches from all images.
    factors = torch.cat([one for one in drawn["rand"] if one.ndim == 1]).split(1)
    numbers = iter([*factors, *[torch.zeros(1)] * 1000])  # at test, none counts
    templates_of_steps = iter([one[None] for one in drawn["randint"]])
    others = iter([one for one in drawn["randperm"] if len(one) < len(problem.labels)])
    # The authors' file that reads the sentences has a syntax error.
    absent = ["trainers.gpt3_prompts"]
    with checkout.trainer(published, problem, ours, absent=absent) as trainer:
        monkeypatch.setattr(torch, "rand", lambda _: next(numbers))
        monkeypatch.setattr(torch, "randint", lambda *_, **__: next(templates_of_steps))
        monkeypatch.setattr(torch, "randperm", lambda _: next(others))
        model = trainer.model
        learner = model.adapter_learner
        tokenize = sys.modules["clip.clip"].tokenize
        texts = [[one.format(name) for one in templates] for name in problem.labels.names]
        learner.tk_prompts = torch.stack([tokenize(own) for own in texts])
        for adapters in (learner.text_adapter, learner.visual_adapter):
            for block in (1, 2, 3):
                adapters[block].mlp_conv = None
        give(find(model), ours.start)
        trainer.train()
        logits = model.eval()(problem.queries)
        found = take(find(model))
    checkout.compare(ours, found, logits, name=f"heba, batches of {size}")


@pytest.mark.authors("jusiro/CLAP")
@pytest.mark.parametrize("method", ["zs_lp", "clap"])
def test_clap(checkout: Checkout, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    problem = pose(views=3, templates=task_cards.read("imagenet").templates)
    adapters: list[Any] = []
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
        ours, *_ = fits
        expected = adapters[0].alpha_constraint
        torch.testing.assert_close(ours.module["multipliers"], expected, rtol=1e-10, atol=0)


class Draws:
    """Numbers for ``np.random.rand``, whose order is that of the rows of our next epoch.

    Rows that are not in the epoch come last.
    """

    def __init__(self, epochs: list[list[ImageBatch]]) -> None:
        self.epochs = iter(epochs)

    def __call__(self, count: int) -> np.ndarray:
        rows = torch.cat([batch.rows for batch in next(self.epochs)])
        numbers = np.full(count, float(count))
        numbers[rows.numpy()] = np.arange(len(rows))
        return numbers


@pytest.mark.authors("lixinustc/GraphAdapter")
def test_graph_adapter(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    # The authors' code needs a number of classes that is a multiple of four, and e = 512.
    names = (*NAMES, "violin", "river", "bread")
    problem = pose(views=5, names=names, embed_dim=512)

    def base_text_features(*_: Any) -> Tensor:
        """Return the features as in TaskRes. The published file calls this, but lacks it."""
        return problem.backbone.text_features(problem.labels.fill())

    monkeypatch.setattr(builtins, "_get_base_text_features", base_text_features, raising=False)
    eye = torch.eye
    monkeypatch.setattr(torch, "eye", lambda size, device="": eye(size))
    # The authors take means over ten passes before the first epoch.
    nodes = [ImageBatch(one, one, problem.targets, problem.targets) for one in problem.images[-2:]]

    def with_nodes(batches: list[list[ImageBatch]]) -> Loader:
        loader = Loader(5 * [[one] for one in nodes] + batches)
        loader.steps = len(batches[0])
        return loader

    graphs = {"text": "graph_learner.GCN_tt", "image": "graph_learner.GCN_it"}
    parts = {}
    for kind, graph in graphs.items():
        parts[f"{kind}_weight"] = f"{graph}.gcn_weights"
        parts[f"{kind}_bias"] = f"{graph}.gcn_bias"
    changes = {"OPTIM.NAME": "adam", "OPTIM.LR": 1e-3, "TRAINER.GRAPHADAPTER.BETA": 0.7}
    small = Small("graph_adapter", named(**parts), changes, config=dict(node_views=2))
    absent = ["GraphAdapter.coop", "GraphAdapter.imagenet_templates"]
    checkout.compare(
        *run(checkout, small, problem, inside="..", beside=[COOP], absent=absent, loader=with_nodes)
    )
