"""Newer methods on image features beside their authors' functions."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checkout import Checkout
from feature_loaders import at_scale
from torch import Tensor, nn
from whole_fits import Compare, Problem, fit, pose

from compatbench.method import POOLED
from compatbench.methods.proker import ProKeR
from compatbench.methods.prolip import ProLIP
from compatbench.methods.ss_text import SSText
from compatbench.methods.tda import TDA
from compatbench.methods.timo import TIMO
from compatbench.methods.transclip import TransCLIP


def unit(problem: Problem, images: Tensor) -> Tensor:
    """Normalised features of images ``[..., 3, H, W]``."""
    features = problem.backbone.encode_images(images.flatten(0, -4))
    return F.normalize(features, dim=-1).unflatten(0, images.shape[:-3])


def share_right(logits: Tensor, targets: Tensor) -> float:
    return 100 * float((logits.argmax(-1) == targets).double().mean())


def package(checkout: Checkout, name: str) -> None:
    """A package of the repository without what its ``__init__`` imports."""
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(checkout.path(f"{checkout.repository}/{name}"))]


@pytest.fixture
def crowd() -> Problem:
    """Sixty queries, some of them far from what the model is sure of."""
    problem, rng = pose(), torch.Generator().manual_seed(3)
    targets = torch.randint(len(problem.labels), (60,), generator=rng)
    first = problem.images[0, :: problem.shots][targets]
    return replace(problem, queries=first + 1.2 * torch.randn(first.shape, generator=rng))


@pytest.mark.authors("lyymuwu/TIMO")
def test_timo(checkout: Checkout, compare: Compare) -> None:
    problem = at_scale(pose(views=3))
    words = ("with fur", "in red light", "at night", "of stone", "in the sea")
    texts = [[f"{name} {w}." for w in words[: 3 + i]] for i, name in enumerate("abcde")]
    labels = replace(problem.labels, descriptions=tuple(map(tuple, texts)))
    problem = replace(problem, labels=labels)
    ours, classes = fit(TIMO(), problem), len(labels)
    method: Any = ours.method
    features, found, logits = method.texts(problem.backbone, labels), [], []
    views, val, queries = (unit(problem, x) for x in (problem.images, problem.val, problem.queries))
    with checkout.open() as load:
        utils: Any = load("utils")
        models: Any = load("models")
        # Keys are normalised after the mean over views, as in Tip-Adapter.
        keys = torch.stack([problem.backbone.encode_images(x) for x in problem.images]).mean(0)
        keys = F.normalize(keys, dim=-1)
        means = F.normalize(keys.unflatten(0, (classes, -1)).mean(1), dim=-1)
        settings = {"dataset": "none"}
        guide = utils.image_guide_text
        guided, matches = guide(settings, features, means, return_matching=True)
        weights = guide(settings, features, means, return_weights=True)[1]
        models.cls_acc = lambda z, y, topk=1: logits.append(z) or share_right(z, y)
        discriminant = models.GDA
        models.GDA = lambda *a, **k: found.append(discriminant(*a, **k)) or found[0]
        rows = views.flatten(0, 1), problem.targets.repeat(len(views))
        tests = queries, torch.arange(len(queries))
        models.TIMO(
            {}, val, problem.val_targets, *tests, guided.T, features, matches, vecs_labels=rows
        )
    alpha, weight, bias, _ = found[0]
    theirs = dict(weight=weight.T, bias=bias, text_weights=weights, alpha=torch.tensor(alpha))
    compare(ours, theirs, logits[-1], parameters={name: ours.module[name] for name in theirs})


@pytest.mark.authors("jusiro/SS-Text")
@pytest.mark.parametrize(("solver", "penalty"), [("SStext+", "shots"), ("SStext", "total")])
def test_ss_text(checkout: Checkout, compare: Compare, solver: str, penalty: Any) -> None:
    """Of classes with four shots to none; for SS-Text+ they run the same with ``repel``."""
    problem = pose(views=1)
    rows = torch.tensor([*range(4), 4, 5, 8, 12, 13])  # none of the last class
    problem = replace(problem, images=problem.images[:, rows], targets=problem.targets[rows])
    ours = fit(SSText(SSText.Config(penalty=penalty, repel=solver == "SStext+")), problem)
    text, scale = problem.backbone.zero_shot(problem.labels), problem.backbone.logit_scale
    with checkout.open() as load:
        runner: Any = load("solvers.runner")
        adapter = load("modeling.adapters.models").Adapter(text, math.log(scale), adapter="ZS")
        given = unit(problem, problem.images[0]), problem.targets
        classes = range(len(problem.labels))
        runner.run_adaptation(*given, adapter, solver=solver, classes=classes)
        logits = adapter(unit(problem, problem.queries))
    weights: Any = ours.method.attach(ours.module, problem.backbone, problem.labels)
    theirs = F.normalize(adapter.adapter.prototypes.detach(), dim=-1)
    name = "ss_text" if solver == "SStext+" else "ss_text, of all shots"
    compare(ours, {"": theirs}, logits, parameters={"": weights.weights}, name=name)


@pytest.mark.authors("MaxZanella/transduction-for-vlms")
def test_transclip(checkout: Checkout, compare: Compare, crowd: Problem) -> None:
    """What they return are probabilities."""
    problem = at_scale(crowd)
    ours = fit(TransCLIP(), problem)
    text = problem.backbone.zero_shot(problem.labels).T
    targets = torch.arange(60) % len(problem.labels)  # of which they read how many there are
    with checkout.open() as load:
        solver: Any = load("TransCLIP_solver.TransCLIP")
        solver.cls_acc = lambda *_: 0.0
        given = unit(problem, problem.queries), targets, text
        found, _ = solver.TransCLIP_solver(*[None] * 4, *given, verbose=False)
    compare(replace(ours, logits=ours.logits.softmax(-1)), {}, found, parameters={})


@pytest.mark.authors("kdiAAA/TDA")
def test_tda(checkout: Checkout, compare: Compare, crowd: Problem) -> None:
    """At a scale that leaves doubts; theirs is written as 100."""
    text = crowd.backbone.zero_shot(crowd.labels).T
    cosines = unit(crowd, crowd.queries) @ text

    def count_doubts(scale: float) -> int:
        doubts = torch.special.entr((scale * cosines).softmax(-1)).sum(-1) / math.log2(len(text.T))
        return int(((doubts > 0.2) & (doubts < 0.5)).sum())

    scale = max((2.0**i for i in range(12)), key=count_doubts)
    problem, found, doubts = at_scale(crowd, scale), [], []
    config = TDA.Config()
    ours, text = fit(TDA(config), problem), text * scale / 100
    sure = dict(enabled=True, shot_capacity=3, alpha=config.alpha, beta=config.beta)
    unsure = dict(enabled=True, shot_capacity=2, alpha=0.117, beta=1.0)
    bounds = dict(entropy_threshold=(0.2, 0.5), mask_threshold=(0.03, 1.0))
    for name, (lower, upper) in bounds.items():
        unsure[name] = dict(lower=lower, upper=upper)  # type: ignore[assignment]
    with checkout.open(absent=["wandb", "datasets", "clip"]) as load:
        runner: Any = load("tda_runner")
        runner.cls_acc = lambda logits, _: found.append(logits.clone()) or 0.0
        update = runner.update_cache
        runner.update_cache = lambda *a: doubts.append(len(a) == 5) or update(*a)
        stream = [(image[None], torch.zeros(1)) for image in problem.queries]
        clip = SimpleNamespace(encode_image=problem.backbone.encode_images)
        runner.run_test_tda(sure, unsure, stream, clip, text)
    assert any(doubts)
    compare(ours, {}, torch.cat(found), parameters={})


@pytest.mark.authors("omarnust/BReg-Adapter")
def test_proker(
    checkout: Checkout, compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, chosen, solved = at_scale(pose(views=3)), [], []
    ours = fit(ProKeR(), problem)
    folder = tmp_path / "configs/RN50/configs_proker"
    folder.mkdir(parents=True)
    (folder / "none.yaml").write_text("beta: [0.5, 3, 20]\nlmbda: [0.001, 1, 10]")
    monkeypatch.chdir(tmp_path)
    with checkout.open(absent=["clip"]) as load:
        package(checkout, "trainers")
        module: Any = load("trainers.proker")
        module.cls_acc, module.save_hps = share_right, lambda best, *_: chosen.append(best)
        solve = torch.linalg.solve
        monkeypatch.setattr(
            torch.linalg, "solve", lambda *a: solved.append(solve(*a)) or solved[-1]
        )
        rows = unit(problem, problem.images).flatten(0, 1), problem.targets.repeat(3)
        val, queries = unit(problem, problem.val), unit(problem, problem.queries)
        text = problem.backbone.zero_shot(problem.labels).T
        given = *rows, val, problem.val_targets, queries, text, "none", 4, 1, "tip-adapter"
        logits = module.ProKeR(*given)
    theirs = dict(alpha=solved[-1], beta=torch.tensor(chosen[0]["beta"]))
    theirs["penalty"] = torch.tensor(chosen[0]["lmbda"])
    parameters = {name: ours.module[name] for name in theirs}
    compare(ours, theirs, 100 * logits, parameters=parameters)


@pytest.mark.authors("astra-vision/ProLIP")
def test_prolip(
    checkout: Checkout, compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their first step sees the second of their views."""
    problem, layers = at_scale(pose(views=7)), []
    recipe = ProLIP.Config().recipe.model_copy(update=dict(epochs=20, lr=1e-2))
    ours, backbone = fit(ProLIP(ProLIP.Config(recipe=recipe)), problem), problem.backbone
    folder = tmp_path / "features_ViTB16_none/4_shot/seed1"
    folder.mkdir(parents=True)
    torch.save(problem.targets, folder / "label.pth")
    for number, view in enumerate(problem.images.roll(1, 0)):
        torch.save(backbone.encode_images(view, POOLED), folder / f"f{number}.pth")
    settings = dict(train_epoch=20, aug_views=7, lr_v=1e-2, lambda_funct_1_N=True, search_lr=False)
    settings |= dict(backbone="ViT-B/16", dataset="none", root_path=str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pooled = backbone.encode_images(problem.queries, POOLED)
    text = backbone.zero_shot(problem.labels).T
    with checkout.open(absent=["clip"]) as load:
        package(checkout, "methods")
        module: Any = load("methods.ProLIP")
        module.cls_acc = lambda *_: 0.0
        module.compute_image_features = lambda *_: (pooled, torch.arange(len(pooled)))
        build = module.VisProjViT.__init__
        module.VisProjViT.__init__ = lambda self, *a: layers.append(self) or build(self, *a)
        weights = {"visual.proj": problem.weights["visual.proj"].clone()}
        names = problem.labels.names
        module.ProLIP(settings | dict(save_checkpoints=False)).forward(
            *[None] * 7, text, *[None] * 3, nn.Identity(), weights, names, 1, 4, "", ""
        )
    found = layers[-1].vit_proj
    logits = 100 * F.normalize(pooled @ found, dim=-1) @ text
    compare(ours, {"projection": found - problem.weights["visual.proj"]}, logits)
