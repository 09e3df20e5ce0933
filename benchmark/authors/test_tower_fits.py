"""Newer methods that put something into the towers, beside their authors' trainers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import open_clip
import pytest
import torch
from checkout import Checkout, Loader, under
from feature_loaders import at_scale
from test_inside_towers import RECIPE, Parts, compare_fits, deep_prompts, give, take
from torch import Tensor
from whole_fits import NAMES, Compare, fit, make, pose

from compatbench.method.trained import Recipe
from compatbench.methods.mma import MMA
from compatbench.methods.mmrl import MMRL
from compatbench.methods.plot_pp import PLOTPlusPlus
from compatbench.methods.protext import ProText


@pytest.mark.authors("ZjjConan/Multi-Modal-Adapter")
def test_mma(checkout: Checkout, compare: Compare) -> None:
    """Of three blocks, the last two have adapters."""

    def find(model: Any) -> Parts:
        learner, found = model.adapter_learner, dict[str, Any]()
        for kind, own in (("text", learner.text_adapter), ("image", learner.visual_adapter)):
            for name, get in (("down", lambda x: x.down[0]), ("up", lambda x: x.up)):
                layers = [get(own[i]) for i in (2, 3)]
                found[f"{kind}_{name}"] = [one.weight for one in layers]
                found[f"{kind}_{name}_bias"] = [one.bias for one in layers]
        shared = [learner.shared_adapter[i][0] for i in (2, 3)]
        found["shared"] = [one.weight for one in shared]
        return found | {"shared_bias": [one.bias for one in shared]}

    problem = pose()
    ours = fit(MMA(MMA.Config(recipe=Recipe(**RECIPE, lr=1.5e-3, warmup_epochs=0))), problem)
    settings = under("MMADAPTER", TEXT_CTX_INIT="a photo of a", PREC="fp32", ADAPTER_DIM=32)
    settings |= under("MMADAPTER", ADAPTER_START=2, ADAPTER_END=3, ADAPTER_SCALE=0.001)
    trainer = "trainers.mmadapter:MultiModalAdapter"
    compare_fits(checkout, compare, trainer, ours, problem, settings, find)


@pytest.mark.authors("yunncheng/MMRL")
def test_mmrl(checkout: Checkout, compare: Compare) -> None:
    def find(model: Any) -> Parts:
        learner = model.representation_learner
        found: Parts = {"tokens": [*learner.compound_rep_tokens]}
        for kind, letter in (("text", "t"), ("image", "v")):
            layers = [*getattr(learner, f"compound_rep_tokens_r2{letter}proj")]
            found[kind] = [one.weight for one in layers]
            found[f"{kind}_bias"] = [one.bias[None] for one in layers]
        found["projection"] = [*model.image_encoder.proj_rep]
        return found

    problem = at_scale(pose())
    ours = fit(make(MMRL, RECIPE, width=16, length=2), problem)
    settings = under("MMRL", ALPHA=0.7, REG_WEIGHT=0.5, REP_LAYERS=[2, 3], REP_DIM=16)
    settings |= under("MMRL", N_REP_TOKENS=2, PREC="fp32")
    with checkout.trainer("trainers.mmrl:MMRL", problem, ours, settings) as theirs:
        give(find(theirs.model), ours.start)
        theirs.train()
        _, _, logits, *_ = theirs.model.eval()(problem.queries)
        compare(ours, take(find(theirs.model)), logits)


@pytest.mark.authors("muzairkhattak/ProText")
def test_protext(checkout: Checkout, compare: Compare) -> None:
    """As many sentences as shots, so that both are drawn alike."""
    problem = pose()
    words = ("with fur", "in red light", "at night", "of stone")
    sentences = [tuple(f"{name} {one}." for one in words) for name in problem.labels.names]
    problem = replace(problem, labels=replace(problem.labels, descriptions=tuple(sentences)))
    ours = fit(make(ProText, dict(warmup_epochs=2)), problem)
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

    settings = under("PROTEXT", N_CTX_TEXT=4, CTX_INIT="a photo of a", PROMPT_DEPTH_TEXT=9)
    settings |= under("PROTEXT", N_CTX_VISION=0, PROMPT_DEPTH_VISION=0, PREC="fp32")
    settings |= under("PROTEXT", L_TWO_WEIGHT=1000, L_TWO_NORM=True, CROSS_DATASET=False)
    loader, trainer = Sentences(ours.batches), "trainers.protext:ProText"
    compare_fits(checkout, compare, trainer, ours, problem, settings, find, train_loader_x=loader)


@pytest.mark.authors("CHENGY12/PLOT")
def test_plot_pp(checkout: Checkout, compare: Compare) -> None:
    """Both stages; so few steps of Sinkhorn's that the authors do not stop early."""
    problem = pose(views=1, image_width=768, names=NAMES[:3], layers=2)
    shape: Any = dict(phrases=("a photo of a", "this is a photo"), image_prompts=2)
    recipe = dict(epochs=3, batch_size=4)
    method = make(PLOTPlusPlus, recipe, **shape, sinkhorn_steps=3, tolerance=0.0)
    ours, logits = fit(method, problem), torch.empty(0)
    same = under("PLOTPP", N_CTX=4, N_CTX_V=2, CTX_INIT=True, M=2, N=2, PREC="fp32")
    same |= under("PLOTPP", PRETRAIN_DIR="") | {"DATASET.NAME": "ImageNet"}

    def find(model: Any) -> Parts:
        learner = model.prompt_learner
        return {"contexts": [*learner.ctx], "image_prompts": [*learner.ctx_vision]}

    found: Any = ours.start
    stages = zip((ours.batches[:3], ours.batches[3:]), ("vision", "joint"), strict=True)
    for batches, part in stages:
        settings = same | under("PLOTPP", TRADE_OFF=part == "vision", MODEL_UPD=part)
        stage, name = replace(ours, batches=batches), "trainers.plotpp:PLOTPP"
        with checkout.trainer(name, problem, stage, settings, inside="plot-pp") as theirs:
            theirs.model.max_iter = 3
            give(find(theirs.model), found)
            theirs.train()
            found, logits = take(find(theirs.model)), theirs.model.eval()(problem.queries)
    compare(ours, found, logits)
