"""Tip-Adapter, APE, their trained forms, and GDA beside their authors' scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from checkout import Checkout
from feature_loaders import Accuracy, at_scale, epochs, queries, val, views
from whole_fits import Compare, OurFit, Problem, fit, make, pose

from compatbench.methods.ape import APE
from compatbench.methods.ape_t import APET
from compatbench.methods.gda import GDA
from compatbench.methods.tip_adapter import TipAdapter
from compatbench.methods.tip_adapter_f import TipAdapterF

EPOCHS, CACHE_VIEWS = 6, 3
# As the authors do: every epoch has views of its own, and the last batch is the smaller one.
SHORT = dict(epochs=EPOCHS, batch_size=8, drop_last=False)
TEXTS: Any = dict(templates="all")
CACHE: Any = TEXTS | dict(cache_views=CACHE_VIEWS)

Load = Callable[[str], ModuleType]


@pytest.fixture
def problem() -> Problem:
    return at_scale(pose(views=EPOCHS + CACHE_VIEWS))


@contextmanager
def script(checkout: Checkout, problem: Problem) -> Iterator[tuple[Load, Any]]:
    """Yields what imports the authors' modules, and their CLIP with the problem's weights."""
    with checkout.open(absent=["cv2"]) as load:
        vars(load("utils"))["cls_acc"] = Accuracy()
        yield load, load("clip.model").build_model({**problem.weights}).eval()


def settings_of(ours: OurFit, folder: Path, **more: Any) -> dict[str, Any]:
    """Our settings in the words of their configuration files."""
    config: Any = ours.method.config
    settings = dict(init_alpha=config.alpha, init_beta=config.beta, search_hp=True)
    settings["search_scale"] = [config.most_beta, config.most_alpha]
    settings["search_step"] = [config.beta_steps, config.alpha_steps]
    settings |= dict(shots=4, augment_epoch=CACHE_VIEWS, dataset="none", backbone="none")
    settings |= dict(load_cache=False, load_pre_feat=False, cache_dir=str(folder))
    return settings | more


def prepare_tip(utils: Any, clip: Any, problem: Problem, settings: dict[str, Any]) -> list[Any]:
    """Keys, values, validation and test features with labels, and class weights."""
    weights = utils.clip_classifier(problem.labels.names, problem.labels.templates, clip)
    arguments = [*utils.build_cache_model(settings, clip, views(problem, CACHE_VIEWS))]
    for name, loader in [("val", val(problem)), ("test", queries(problem))]:
        arguments += utils.pre_load_features(settings, name, clip, loader)
    return [*arguments, weights]


@pytest.mark.authors("gaopengcuhk/Tip-Adapter")
def test_tip_adapter(
    checkout: Checkout, compare: Compare, problem: Problem, tmp_path: Path
) -> None:
    ours, found = fit(TipAdapter(TipAdapter.Config(**CACHE)), problem), []
    settings = settings_of(ours, tmp_path)
    with script(checkout, problem) as (load, clip):
        main: Any = load("main")
        arguments = prepare_tip(load("utils"), clip, problem, settings)
        main.cls_acc, search = Accuracy(), main.search_hp
        main.search_hp = lambda *args: found.append(search(*args)) or found[0]
        main.run_tip_adapter(settings, *arguments)
    theirs = dict(keys=arguments[0].T, values=arguments[1])
    theirs |= dict(zip(("beta", "alpha"), map(torch.tensor, found[0]), strict=True))
    compare(ours, theirs, main.cls_acc.logits, parameters=ours.module.stored)


@pytest.mark.authors("gaopengcuhk/Tip-Adapter")
def test_tip_adapter_f(
    checkout: Checkout, compare: Compare, problem: Problem, tmp_path: Path
) -> None:
    ours = fit(make(TipAdapterF, SHORT, **CACHE), problem)
    settings = settings_of(ours, tmp_path, train_epoch=EPOCHS, lr=ours.recipe.lr)
    with script(checkout, problem) as (load, clip):
        main: Any = load("main")
        arguments = prepare_tip(load("utils"), clip, problem, settings)
        main.cls_acc = Accuracy(growing=ours.steps + EPOCHS)
        main.run_tip_adapter_F(settings, *arguments, clip, epochs(ours.batches))
    keys = torch.load(tmp_path / "best_F_4shots.pt")
    compare(ours, {"keys": keys}, main.cls_acc.logits)


@pytest.fixture
def ape_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Problem) -> Path:
    """Where APE's scripts run. They leave the criterion of channels in ``caches``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "load", partial(torch.load, weights_only=False))
    (tmp_path / "caches" / "none").mkdir(parents=True)
    (tmp_path / "gpt3.json").write_text(json.dumps({name: [] for name in problem.labels.names}))
    return tmp_path


def ape_settings(ours: OurFit, folder: Path, **more: Any) -> dict[str, Any]:
    config: Any = ours.method.config
    size = int(ours.module["channels"].sum())
    names = ("training_free_feat_num", "training_feat_num", "feat_num")
    weights = [config.similarity_weight, config.variance_weight]
    settings = dict.fromkeys(names, size) | dict(w_training_free=weights, w_training=weights)
    return settings_of(ours, folder, **settings, **more)


def prepare_ape(extract: Any, clip: Any, problem: Problem, settings: dict[str, Any]) -> list[Any]:
    """The same as for Tip-Adapter; another script of theirs writes the features."""
    extract.cls_acc = Accuracy()
    extract.extract_few_shot_feature(settings, clip, views(problem, CACHE_VIEWS))
    names, template = problem.labels.names, problem.labels.templates
    extract.extract_text_feature(settings, names, "gpt3.json", clip, template)
    arguments = [*extract.load_few_shot_feature(settings)]
    for name, loader in [("val", val(problem)), ("test", queries(problem))]:
        extract.extract_val_test_feature(settings, name, clip, loader)
        arguments += extract.loda_val_test_feature(settings, name)
    return [*arguments, extract.load_text_feature(settings)]


@pytest.mark.authors("yangyangyang127/APE")
def test_ape(checkout: Checkout, compare: Compare, problem: Problem, ape_folder: Path) -> None:
    ours = fit(APE(APE.Config(channels=0.5, beta_steps=20, **CACHE)), problem)
    config: Any = ours.method.config
    settings = ape_settings(ours, ape_folder, init_gamma=config.gamma)
    settings["search_scale"].append(config.most_gamma)
    settings["search_step"].append(config.gamma_steps)
    with script(checkout, problem) as (load, clip):
        main: Any = load("main")
        arguments = prepare_ape(load("extract_features"), clip, problem, settings)
        main.cls_acc, criterion, chosen = Accuracy(), main.cal_criterion, []
        main.cal_criterion = lambda *a, **k: chosen.append(criterion(*a, **k)) or chosen[0]
        main.APE(settings, *arguments)
    channels = torch.zeros(len(arguments[0])).index_fill(0, chosen[0], 1.0)
    theirs = dict(keys=arguments[0].T, values=arguments[1], channels=channels)
    parameters = {name: ours.module[name] for name in theirs}
    compare(ours, theirs, main.cls_acc.logits, parameters=parameters)


@pytest.mark.authors("yangyangyang127/APE")
def test_ape_t(checkout: Checkout, compare: Compare, problem: Problem, ape_folder: Path) -> None:
    ours = fit(make(APET, SHORT, channels=0.5, beta_steps=50, **CACHE), problem)
    pace = dict(train_epoch=EPOCHS, lr=ours.recipe.lr, eps=ours.recipe.eps)
    settings = ape_settings(ours, ape_folder, **pace)
    with script(checkout, problem) as (load, clip):
        main: Any = load("main")
        arguments = prepare_ape(load("extract_features"), clip, problem, settings)
        main.cls_acc = Accuracy(growing=ours.steps + EPOCHS)
        main.APE_T(settings, *arguments, clip, epochs(ours.batches))
        adapter = torch.load(ape_folder / "APE-T_4shots.pt")
    # Theirs are in the order of the criterion, ours in that of the channels.
    theirs = dict(residual=adapter.res[:, adapter.indices.argsort()])
    theirs["value_weights"] = adapter.value_weights[:, 0]
    compare(ours, theirs, main.cls_acc.logits)


@pytest.mark.authors("mrflogs/ICLR24")
def test_gda(checkout: Checkout, compare: Compare, problem: Problem) -> None:
    ours = fit(GDA(GDA.Config(**TEXTS)), problem)
    with script(checkout, problem) as (load, clip):
        utils, main = load("utils"), load("main_few_shots")
        text = utils.clip_classifier(problem.labels.names, problem.labels.templates, clip)
        for name, loader in [("val", val(problem)), ("test", queries(problem))]:
            features, targets = utils.pre_load_features({}, name, clip, loader)
            vars(main).update({f"{name}_features": features, f"{name}_labels": targets})
        main.cls_acc, einsum, sums = Accuracy(), torch.einsum, []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "einsum", lambda *a: sums.append(einsum(*a)) or sums[-1])
            count = len(problem.images)
            main.run({"augment_epoch": count}, views(problem, count), text, clip)
    weight, quadratic = sums[0].T, sums[1]
    bias = -torch.tensor(float(len(problem.labels))).log() - quadratic / 2
    compare(ours, dict(weight=weight, bias=bias), main.cls_acc.logits)
