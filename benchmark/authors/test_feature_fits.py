"""Newer methods on image features fit as their authors' functions do."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checkout import Checkout
from torch import Tensor, nn
from whole_fits import Problem, at_scale, fit, pose, recording

from compatbench.method import POOLED
from compatbench.methods import rehark
from compatbench.methods.adapt import ADAPT
from compatbench.methods.ss_text import SSText
from compatbench.methods.stata import StatA
from compatbench.methods.timo import TIMO
from compatbench.methods.transclip import TransCLIP


def share_right(logits: Tensor, targets: Tensor) -> float:
    """Return the accuracy in percent."""
    return 100 * float((logits.argmax(-1) == targets).double().mean())


def package(checkout: Checkout, name: str) -> None:
    """Register a package of the repository without running its ``__init__``."""
    module = ModuleType(name)
    module.__path__ = [str(checkout.path(f"{checkout.repository}/{name}"))]
    sys.modules[name] = module


@pytest.fixture
def crowd() -> Problem:
    """Return a problem of sixty queries. The model is uncertain about some of them."""
    problem = pose()
    rng = torch.Generator().manual_seed(3)
    targets = torch.randint(len(problem.labels), (60,), generator=rng)
    first = problem.images[0, :: problem.shots][targets]
    noise = 1.2 * torch.randn(first.shape, generator=rng)
    return replace(problem, queries=first + noise)


@pytest.mark.authors("lyymuwu/TIMO")
def test_timo(checkout: Checkout) -> None:
    problem = pose(views=3, scale=100.0)
    words = ("with fur", "in red light", "at night", "of stone", "in the sea")
    texts = []
    for i, name in enumerate("abcde"):
        texts.append(tuple(f"{name} {word}." for word in words[: 3 + i]))
    labels = replace(problem.labels, descriptions=tuple(texts))
    problem = replace(problem, labels=labels)
    ours = fit(TIMO(), problem)
    classes = len(labels)
    method: Any = ours.method
    features = method.texts(problem.backbone, labels)
    found: list[Any] = []
    logits: list[Tensor] = []
    views = problem.unit_features(problem.images)
    val = problem.unit_features(problem.val)
    queries = problem.unit_features(problem.queries)
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

        def measure(logits_of_call: Tensor, targets: Tensor, topk: int = 1) -> float:
            logits.append(logits_of_call)
            return share_right(logits_of_call, targets)

        models.cls_acc = measure
        discriminant = models.GDA

        def first_discriminant(*args: Any, **kwargs: Any) -> Any:
            found.append(discriminant(*args, **kwargs))
            return found[0]

        models.GDA = first_discriminant
        rows = (views.flatten(0, 1), problem.targets.repeat(len(views)))
        tests = (queries, torch.arange(len(queries)))
        models.TIMO(
            {}, val, problem.val_targets, *tests, guided.T, features, matches, vecs_labels=rows
        )
    alpha, weight, bias, _ = found[0]
    theirs = dict(weight=weight.T, bias=bias, text_weights=weights, alpha=torch.tensor(alpha))
    checkout.compare(
        ours, theirs, logits[-1], parameters={name: ours.module[name] for name in theirs}
    )


@pytest.mark.authors("jusiro/SS-Text")
@pytest.mark.parametrize(("solver", "penalty"), [("SStext+", "shots"), ("SStext", "total")])
def test_ss_text(checkout: Checkout, solver: str, penalty: Any) -> None:
    """Classes have four shots or fewer, one has none. SS-Text+ is the same with ``repel``."""
    problem = pose(views=1)
    rows = torch.tensor([*range(4), 4, 5, 8, 12, 13])  # none of the last class
    problem = replace(problem, images=problem.images[:, rows], targets=problem.targets[rows])
    ours = fit(SSText(SSText.Config(penalty=penalty, repel=solver == "SStext+")), problem)
    text = problem.backbone.zero_shot(problem.labels)
    scale = problem.backbone.logit_scale
    with checkout.open() as load:
        runner: Any = load("solvers.runner")
        adapter = load("modeling.adapters.models").Adapter(text, math.log(scale), adapter="ZS")
        given = problem.unit_features(problem.images[0]), problem.targets
        classes = range(len(problem.labels))
        runner.run_adaptation(*given, adapter, solver=solver, classes=classes)
        logits = adapter(problem.unit_features(problem.queries))
    weights: Any = ours.method.attach(ours.module, problem.backbone, problem.labels)
    theirs = F.normalize(adapter.adapter.prototypes.detach(), dim=-1)
    name = "ss_text" if solver == "SStext+" else "ss_text, of all shots"
    checkout.compare(ours, {"": theirs}, logits, parameters={"": weights.weights}, name=name)


@pytest.mark.authors("MaxZanella/transduction-for-vlms")
def test_transclip(checkout: Checkout, crowd: Problem) -> None:
    """The authors' function returns probabilities."""
    problem = at_scale(crowd)
    ours = fit(TransCLIP(), problem)
    text = problem.backbone.zero_shot(problem.labels).T
    targets = torch.arange(60) % len(problem.labels)  # only their number of classes is read
    with checkout.open() as load:
        solver: Any = load("TransCLIP_solver.TransCLIP")
        solver.cls_acc = lambda *_: 0.0
        given = problem.unit_features(problem.queries), targets, text
        found, _ = solver.TransCLIP_solver(*[None] * 4, *given, verbose=False)
    checkout.compare(replace(ours, logits=ours.logits.softmax(-1)), {}, found, parameters={})


@pytest.mark.authors("MaxZanella/StatA")
def test_stata(checkout: Checkout, crowd: Problem) -> None:
    """The authors' function returns probabilities."""
    problem = at_scale(crowd)
    ours = fit(StatA(), problem)
    text = problem.backbone.zero_shot(problem.labels).T[None]
    with checkout.open() as load:
        solver: Any = load("solvers.StatA")
        queries = problem.unit_features(problem.queries)
        _, found = solver.StatA_solver(queries, torch.zeros(60), text, alpha=1.0)
    checkout.compare(replace(ours, logits=ours.logits.softmax(-1)), {}, found, parameters={})


@pytest.mark.authors("AIM-SKKU/ADAPT")
def test_adapt(checkout: Checkout, crowd: Problem) -> None:
    """The bank has room for every image.

    The authors' code compares an image that does not enter it by the similarities of the last one
    that did.
    """
    problem = at_scale(crowd)
    ours = fit(ADAPT(ADAPT.Config(capacity=60)), problem)
    text = problem.backbone.zero_shot(problem.labels).T
    found: list[Tensor] = []
    with checkout.open(absent=["wandb", "clip", "data"]) as load:
        module: Any = load("ADAPT_online")

        def keep_logits(logits: Tensor, *_: Any, **__: Any) -> list[Tensor]:
            found.append(logits.clone())
            return [torch.zeros(1)]

        module.accuracy = keep_logits
        module.args = SimpleNamespace(scale=20.0, bank_size=60, alpha=0.9)
        stream = [(image[None], torch.zeros(1)) for image in problem.queries]
        module.evaluation(stream, text, problem.backbone.encode_images, module.args)
    checkout.compare(ours, {}, torch.cat(found), parameters={})


@pytest.mark.authors("kdiAAA/TDA")
def test_tda(checkout: Checkout, crowd: Problem) -> None:
    """The scale leaves the model uncertain; the authors' code has a scale of 100."""
    text = crowd.backbone.zero_shot(crowd.labels).T
    cosines = crowd.unit_features(crowd.queries) @ text

    def count_doubts(scale: float) -> int:
        doubts = torch.special.entr((scale * cosines).softmax(-1)).sum(-1) / math.log2(len(text.T))
        return int(((doubts > 0.2) & (doubts < 0.5)).sum())

    scale = max((2.0**i for i in range(12)), key=count_doubts)
    problem = at_scale(crowd, scale)
    published = checkout.published("tda")
    ours = fit(published.method(), problem)
    text = text * scale / 100
    sure = published.tree["positive"]
    unsure = published.tree["negative"]
    found: list[Tensor] = []
    doubts: list[bool] = []
    with checkout.open(absent=["wandb", "datasets", "clip"]) as load:
        runner: Any = load("tda_runner")

        def keep_logits(logits: Tensor, _: Tensor) -> float:
            found.append(logits.clone())
            return 0.0

        runner.cls_acc = keep_logits
        update = runner.update_cache

        def note_update(*args: Any) -> Any:
            doubts.append(len(args) == 5)  # an update of the negative cache has one more
            return update(*args)

        runner.update_cache = note_update
        stream = [(image[None], torch.zeros(1)) for image in problem.queries]
        clip = SimpleNamespace(encode_image=problem.backbone.encode_images)
        runner.run_test_tda(sure, unsure, stream, clip, text)
    assert any(doubts)
    checkout.compare(ours, {}, torch.cat(found), parameters={})


@pytest.mark.authors("omarnust/BReg-Adapter")
def test_proker(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors' function reads its file itself."""
    problem = pose(views=3, scale=100.0)
    chosen: list[Any] = []
    solved: list[Any] = []
    published = checkout.published("proker")
    ours = fit(published.method(), problem)
    monkeypatch.chdir(published.folder)
    with checkout.open(absent=["clip"]) as load:
        package(checkout, "trainers")
        module: Any = load("trainers.proker")
        module.cls_acc = share_right
        module.save_hps = lambda best, *_: chosen.append(best)
        rows = (problem.unit_features(problem.images).flatten(0, 1), problem.targets.repeat(3))
        val = problem.unit_features(problem.val)
        queries = problem.unit_features(problem.queries)
        text = problem.backbone.zero_shot(problem.labels).T
        given = *rows, val, problem.val_targets, queries, text, published.task, 4, 1, "grid"
        with recording(torch.linalg, "solve", solved):
            logits = module.ProKeR(*given)
    theirs = {
        "alpha": solved[-1],
        "beta": torch.tensor(chosen[0]["beta"]),
        "penalty": torch.tensor(chosen[0]["lmbda"]),
    }
    parameters = {name: ours.module[name] for name in theirs}
    checkout.compare(ours, theirs, 100 * logits, parameters=parameters)


AUTHORS_NAMES = {"prolip": ("ProLIP", "VisProjViT"), "rla": ("RegLinearAdapter", "LinAdapterViT")}


@pytest.mark.authors("astra-vision/ProLIP")
@pytest.mark.parametrize("method", ["prolip", "rla"])
def test_prolip_and_rla(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The authors' first step sees the second of their views."""
    problem = pose(views=7, scale=100.0)
    published = checkout.published(method, dict(train_epoch=20, lr_v=1e-2, aug_views=7))
    ours = fit(published.method(dict(lr=1e-2)), problem)
    backbone = problem.backbone
    settings = published.tree
    layers: list[Any] = []
    folder = tmp_path / "features_ViTB16_none/4_shot/seed1"
    folder.mkdir(parents=True)
    torch.save(problem.targets, folder / "label.pth")
    for number, view in enumerate(problem.images.roll(1, 0)):
        torch.save(backbone.encode_images(view, POOLED), folder / f"f{number}.pth")
    settings.update(backbone="ViT-B/16", dataset="none", root_path=str(tmp_path))
    settings.update(save_checkpoints=False)
    monkeypatch.chdir(tmp_path)
    pooled = backbone.encode_images(problem.queries, POOLED)
    text = backbone.zero_shot(problem.labels).T
    with checkout.open(absent=["clip"]) as load:
        package(checkout, "methods")
        name, layer = AUTHORS_NAMES[method]
        module: Any = load(f"methods.{name}")
        module.cls_acc = lambda *_: 0.0
        module.compute_image_features = lambda *_: (pooled, torch.arange(len(pooled)))
        layer_class = getattr(module, layer)
        build = layer_class.__init__

        def note_layer(self: Any, *args: Any) -> None:
            layers.append(self)
            build(self, *args)

        layer_class.__init__ = note_layer
        weights = {"visual.proj": problem.weights["visual.proj"].clone()}
        names = problem.labels.names
        getattr(module, name)(settings).forward(
            *[None] * 7, text, *[None] * 3, nn.Identity(), weights, names, 1, 4, "", ""
        )
        # The layer maps rows linearly, so the identity gives its matrix.
        found = layers[-1](torch.eye(pooled.shape[1], dtype=pooled.dtype))
    start = problem.weights["visual.proj"]
    logits = 100 * F.normalize(pooled @ found, dim=-1) @ text
    change = found - start
    if method == "rla":
        # found = P (I + D), from which D follows where P has full rank.
        change = torch.linalg.lstsq(start, change).solution
    checkout.compare(ours, {"projection": change}, logits)


# The settings of the authors' search by our names; those of the rectifier are zero.
REHARK_NAMES = {
    "power": "power",
    "alpha_txt": "text_mix",
    "refine_w": "image_mix",
    "blend_img": "bridge",
    "scale_zs": "scale",
    "lmbda": "penalty",
    "beta1": "narrow",
    "beta2": "wide",
    "mix_k": "kernel_mix",
}


class ReplayedStudy:
    """Stands for a study of Optuna: its trials are the settings of our search."""

    def __init__(self, trials: list[dict[str, float]]) -> None:
        self.trials = trials

    def optimize(self, objective: Any, **_: Any) -> None:
        best = -1.0
        for settings in self.trials:
            theirs = dict(var_adj=0.0, soft=0.0)
            for name, ours in REHARK_NAMES.items():
                theirs[name] = settings[ours]
            accuracy = objective(SimpleNamespace(suggest_float=partial(choose, theirs)))
            if accuracy > best:
                best = accuracy
                self.best_params = theirs


def choose(settings: dict[str, float], name: str, low: float, high: float, **_: Any) -> float:
    """Return the setting, which must lie in the authors' range."""
    assert settings[name] == 0 or low <= settings[name] <= high
    return settings[name]


@pytest.mark.authors("Jahid12012021/ReHARK")
def test_rehark(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors' search tries the settings that ours has drawn. Their rectifier is off."""
    texts = tuple((f"{name} with fur.", f"{name} at night.") for name in "abcde")
    problem = pose(views=3, scale=100.0)
    problem = replace(problem, labels=replace(problem.labels, descriptions=texts))
    drawn: list[dict[str, float]] = []
    draw = rehark.draw_settings

    def record(rng: torch.Generator) -> dict[str, float]:
        drawn.append(draw(rng))
        return drawn[-1]

    monkeypatch.setattr(rehark, "draw_settings", record)
    ours = fit(rehark.ReHARK(rehark.ReHARK.Config(trials=20)), problem)
    backbone = problem.backbone
    study = ReplayedStudy(drawn)
    solved: list[Any] = []
    with checkout.open(absent=["optuna"]) as load:
        package(checkout, "trainers")
        module: Any = load("trainers.rehark")
        module.optuna.create_study = lambda **_: study
        rows = (problem.unit_features(problem.images).flatten(0, 1), problem.targets.repeat(3))
        val = (problem.unit_features(problem.val), problem.val_targets)
        queries = problem.unit_features(problem.queries)
        names = backbone.zero_shot(problem.labels)
        described = rehark.mean_descriptions(backbone, problem.labels)
        with recording(torch.linalg, "solve", solved):
            logits = module.ReHARK(*rows, *val, queries, names, described, "", 4, 1, "")
    theirs = {"alpha": solved[-1]}
    for name, own in REHARK_NAMES.items():
        theirs[own] = torch.tensor(study.best_params[name])
    parameters = {name: ours.module[name] for name in theirs}
    checkout.compare(ours, theirs, logits, parameters=parameters)
