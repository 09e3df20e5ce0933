"""CoOp and its relatives beside their authors' trainers, which are Dassl's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from checkout import Checkout, under
from torch import Tensor, nn
from whole_fits import Compare, Problem, fit, make, pose

from compatbench.data.cards import suite_cards, task_cards
from compatbench.engine.method_settings import resolve_settings
from compatbench.method import DENSE, Labels, Method, Module
from compatbench.methods.cocoop import CoCoOp
from compatbench.methods.coop import CoOp
from compatbench.methods.dekg import DeKg
from compatbench.methods.dept import HEAD, DePT
from compatbench.methods.kgcoop import KgCoOp
from compatbench.methods.mergetune import MergeTune
from compatbench.methods.plot import PLOT
from compatbench.methods.prograd import ProGrad
from compatbench.methods.tcp import TCP

CONTEXT = {"context": "prompt_learner.ctx"}
NETWORK = {
    "down": "prompt_learner.meta_net.linear1.weight",
    "down_bias": "prompt_learner.meta_net.linear1.bias",
    "up": "prompt_learner.meta_net.linear2.weight",
    "up_bias": "prompt_learner.meta_net.linear2.bias",
}
MERGETUNE_DASSL = "Surrey-UP-Lab/MERGETUNE/Dassl.ProGrad.pytorch"
PRECISE = dict(PREC="fp32", CSC=False, CLASS_TOKEN_POSITION="end", CTX_INIT="")
# The tasks of suite ``paper`` by the names of the authors' datasets.
DATASETS = {
    "imagenet": "ImageNet",
    "caltech101": "Caltech101",
    "oxford_pets": "OxfordPets",
    "stanford_cars": "StanfordCars",
    "flowers102": "OxfordFlowers",
    "food101": "Food101",
    "fgvc_aircraft": "FGVCAircraft",
    "sun397": "SUN397",
    "dtd": "DescribableTextures",
    "eurosat": "EuroSAT",
    "ucf101": "UCF101",
}


@pytest.mark.authors("KaiyangZhou/CoOp")
@pytest.mark.parametrize(("position", "own"), [("end", False), ("middle", True), ("front", False)])
def test_coop(checkout: Checkout, compare: Compare, position: str, own: bool) -> None:
    problem = pose()
    ours = fit(make(CoOp, context_length=4, position=position, class_specific=own), problem)
    words = PRECISE | dict(N_CTX=4, CSC=own, CLASS_TOKEN_POSITION=position)
    settings = under("COOP", **words)
    theirs, logits = checkout.train("trainers.coop:CoOp", problem, ours, settings, CONTEXT)
    compare(ours, theirs, logits, name=f"coop, {position}{', per class' if own else ''}")


@pytest.mark.authors("KaiyangZhou/CoOp")
def test_cocoop(checkout: Checkout, compare: Compare) -> None:
    problem = pose(shots=2)
    ours = fit(make(CoCoOp, dict(epochs=4, batch_size=1)), problem)
    settings = under("COCOOP", N_CTX=4, CTX_INIT="a photo of a", PREC="fp32")
    theirs, logits = checkout.train(
        "trainers.cocoop:CoCoOp", problem, ours, settings, CONTEXT | NETWORK
    )
    compare(ours, theirs, logits)


def on_every_task(
    cls: type[Method],
    checkout: Checkout,
    compare: Compare,
    name: str,
    names: dict[str, str],
    settings: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    recipe: dict[str, Any] | None = None,
    sizes: dict[str, Any] | None = None,
    **where: str,
) -> None:
    """Fits with each task's settings in suite ``paper`` and with the authors' words for it.

    Args:
        settings: theirs that follow from our configuration.
        sizes: of the model.
        where: keyword arguments of ``Checkout.trainer``.
    """
    mine, theirs, logits, steps, start = {}, {}, [], 0, pose(**(sizes or {}))
    for task, dataset in DATASETS.items():
        card = task_cards.read(task)
        teacher = card.teacher_template or card.templates[0]
        labels = Labels(start.labels.names, card.templates, teacher)
        problem = replace(start, labels=labels)
        config = resolve_settings(cls, suite_cards.read("paper"), task=task).config
        config["recipe"] |= dict(epochs=4, batch_size=10) | (recipe or {})
        ours = fit(cls(cls.Config.model_validate(config | {"max_steps": None})), problem)
        given = settings(config) | {"DATASET.NAME": dataset}
        found, other = checkout.train(name, problem, ours, given, names, **where)
        mine |= {f"{task} {one}": ours.module[one] for one in found}
        theirs |= {f"{task} {one}": tensor for one, tensor in found.items()}
        logits.append((ours.logits, other[0] if isinstance(other, tuple) else other))
        steps += ours.steps
    both = replace(ours, logits=torch.cat([one for one, _ in logits]))
    other, row = torch.cat([one for _, one in logits]), f"{cls.card.name}, {len(logits)} tasks"
    compare(both, theirs, other, parameters=mine, name=row, steps=steps)


@pytest.mark.authors("htyao89/KgCoOp")
def test_kgcoop(checkout: Checkout, compare: Compare) -> None:
    def settings(config: dict[str, Any]) -> dict[str, Any]:
        words = PRECISE | dict(N_CTX=4, CTX_INIT=config["context_words"], W=config["weight"])
        return under("COOP", **words) | {"TRAINER.COCOOP.PREC": "fp32"}

    where = dict(inside="KgCoOp", dassl="htyao89/KgCoOp/Dassl.ProGrad.pytorch")
    name = "trainers.kgcoop:KgCoOp"
    on_every_task(KgCoOp, checkout, compare, name, CONTEXT, settings, **where)


@pytest.mark.authors("cnunlp/DeKg")
def test_dekg(checkout: Checkout, compare: Compare) -> None:
    def settings(config: dict[str, Any]) -> dict[str, Any]:
        words = PRECISE | dict(N_CTX=4, CTX_INIT=True, W=config["weight"])
        return under("COOP", **words) | {"LOSS.WEIGHT": config["independence"]}

    on_every_task(DeKg, checkout, compare, "trainers.DeKg:DeKg", CONTEXT, settings)


@pytest.mark.authors("Surrey-UP-Lab/MERGETUNE")
def test_mergetune(checkout: Checkout, compare: Compare) -> None:
    """Their CoOp, and then their further training from its context."""
    brisk = MergeTune.Config().coop_recipe.model_copy(update=dict(epochs=6, batch_size=8))
    problem, method = pose(), make(MergeTune, coop_recipe=brisk)
    ours, where = fit(method, problem), dict(inside="mergetune", dassl=MERGETUNE_DASSL)
    first, second = (replace(ours, batches=part) for part in (ours.batches[:6], ours.batches[6:]))
    assert len(second.batches) == 6
    words = PRECISE | dict(N_CTX=4, CTX_INIT=True, W=10.0, LOSS_TYPE="cosine")
    settings = under("COOP", **words, COOP_LMC=True, W_LMC=1.0, NUM_SAMPLES=5)
    settings |= under("COOP_CLIP", N_CTX=4, CTX_INIT=True) | {"RESUME_COOP": None}
    coop, _ = checkout.train("trainers.coop:CoOp", problem, first, settings, CONTEXT, **where)
    name = "trainers.kgcoop_coop_LMC:KgCoOp_COOP_LMC"
    with checkout.trainer(name, problem, second, settings, **where) as trainer:
        trainer.after_train = lambda: None  # theirs chooses an epoch
        learned = trainer.model.prompt_mid_learner.ctx
        for context in (trainer.model.prompt_learner.ctx, learned):
            context.data.copy_(coop["context"])
        trainer.train()
        logits, _ = trainer.model.eval()(problem.queries)
    compare(ours, {"context": learned}, logits)


@pytest.mark.authors("BeierZhu/Prompt-align")
def test_prograd(checkout: Checkout, compare: Compare) -> None:
    def settings(config: dict[str, Any]) -> dict[str, Any]:
        words = under("COOP", **PRECISE | dict(N_CTX=config["context_length"], CTX_INIT=True))
        loss = {"LOSS.NAME": "prograd", "LOSS.LAMBDA": config["strength"]}
        return words | loss | {"LOSS.T": config["temperature"]}

    where = dict(inside="ProGrad.public", dassl="BeierZhu/Prompt-align/Dassl.ProGrad.pytorch")
    name = "trainers.prograd:ProGrad"
    on_every_task(ProGrad, checkout, compare, name, CONTEXT, settings, **where)


@pytest.mark.authors("htyao89/Textual-based_Class-aware_prompt_tuning")
def test_tcp(checkout: Checkout, compare: Compare) -> None:
    """Its code takes the width 512 and block 8 of 12 for granted, and Dassl's Adam has this ε."""

    def settings(config: dict[str, Any]) -> dict[str, Any]:
        words = PRECISE | dict(N_CTX=config["context_length"], W=1.0)
        return under("COOP", **words) | {"TRAINER.COCOOP.PREC": "fp32"}

    sizes = dict(names=("dog", "red apple"), width=512, text_layers=12)
    recipe = dict(epochs=2, batch_size=8, eps=1e-8)
    on_every_task(
        TCP,
        checkout,
        compare,
        "trainers.tcp:TCP",
        CONTEXT | NETWORK,
        settings,
        recipe=recipe,
        sizes=sizes,
    )


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
def test_plot(checkout: Checkout, compare: Compare, pooled: bool) -> None:
    """So few steps that the authors do not stop early: they stop for a batch, we per image."""
    problem, steps = pose(), 3
    method = make(FarPLOT, context_length=4, sinkhorn_steps=steps, tolerance=0.0, pooled=pooled)
    ours = fit(method, problem)
    settings = under("PLOT", **PRECISE | dict(N_CTX=4, N=4))
    settings |= {"DATASET.NAME": "ImageNet" if pooled else "Caltech101"}
    with checkout.trainer(
        "trainers.plot:PLOT", problem, ours, settings, inside="plot-coop"
    ) as trainer:
        trainer.model.image_encoder, trainer.model.max_iter = DenseImages(problem), steps
        contexts = trainer.model.prompt_learner.ctx
        contexts.data.copy_(ours.start["contexts"])
        trainer.train()
        logits = trainer.model(problem.queries)
    compare(ours, {"contexts": contexts}, logits, name=f"plot{', pooled' if pooled else ''}")


@pytest.mark.authors("Koorye/DePT")
def test_dept(checkout: Checkout, compare: Compare) -> None:
    problem = pose()
    ours = fit(make(DePT, dict(batch_size=4), context_length=4), problem)
    settings = under("COOP", **PRECISE | dict(N_CTX=4))
    settings |= under("LINEAR_PROBE", TYPE="linear", WEIGHT=0.7, TEST_TIME_FUSION=True)
    settings |= {"TRAINER.FILM.LINEAR_PROBE": True, "DATASET.SUBSAMPLE_CLASSES": "base"}
    settings |= {"TRAINER.NAMES_TO_UPDATE": ["prompt_learner", "linear_probe", "film"]}
    settings |= {"OPTIM.STAGED_LR": True, "OPTIM.LR_EXP": 6.5, "OPTIM.BASE_LR_MULT": 1.0}
    settings |= {"OPTIM.NEW_LAYERS": ["linear_probe", "film"]}
    head = ("film_lp_img.scale", "film_lp_img.bias", "film_lp_text.scale", "film_lp_text.bias")
    head += ("linear_probe_proj.weight", "linear_probe_proj.bias")
    names = CONTEXT | dict(zip(HEAD, head, strict=True))
    theirs, logits = checkout.train(
        "trainers.elp_coop:ExtrasLinearProbeCoOp",
        problem,
        ours,
        settings,
        names,
        absent=["plotnine"],
    )
    compare(ours, theirs, logits)
