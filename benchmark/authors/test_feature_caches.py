"""Tip-Adapter, APE, their trained forms, and GDA fit as their authors' scripts do."""

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
from checkpoints import assert_alike, import_file
from configurations import Published
from feature_loaders import Accuracy, epochs, queries, val, views
from whole_fits import Problem, fit, pose, recording

from compatbench.method import convert

EPOCHS = 6
CACHE_VIEWS = 3
# As the authors do: every epoch has new views, and the last batch is smaller.
SHORT = dict(batch_size=8, drop_last=False)
CACHE: Any = dict(templates="all", cache_views=CACHE_VIEWS)

Load = Callable[[str], ModuleType]


@pytest.fixture
def problem() -> Problem:
    return pose(views=EPOCHS + CACHE_VIEWS, scale=100.0)


@contextmanager
def script(checkout: Checkout, problem: Problem) -> Iterator[tuple[Load, Any]]:
    """Yield a function that imports the authors' modules, and their CLIP with our weights."""
    with checkout.open(absent=["cv2"]) as load:
        vars(load("utils"))["cls_acc"] = Accuracy()
        yield load, load("clip.model").build_model({**problem.weights}).eval()


def short(checkout: Checkout, method: str, folder: Path, **changes: Any) -> Published:
    """Return the authors' settings of a task, with few views and epochs, and files in a folder."""
    changes = dict(augment_epoch=CACHE_VIEWS, train_epoch=EPOCHS) | changes
    published = checkout.published(method, changes, "dtd")
    published.tree.update(shots=4, dataset="none", load_pre_feat=False, cache_dir=str(folder))
    return published


def prepare_tip(utils: Any, clip: Any, problem: Problem, settings: dict[str, Any]) -> list[Any]:
    """Return keys, values, validation and test features with labels, and class weights."""
    weights = utils.clip_classifier(problem.labels.names, problem.labels.templates, clip)
    arguments = [*utils.build_cache_model(settings, clip, views(problem, CACHE_VIEWS))]
    for name, loader in [("val", val(problem)), ("test", queries(problem))]:
        arguments += utils.pre_load_features(settings, name, clip, loader)
    return [*arguments, weights]


@pytest.mark.authors("gaopengcuhk/Tip-Adapter")
@pytest.mark.parametrize("kind", ["tip_adapter", "tip_adapter_f"])
def test_tip_adapter(checkout: Checkout, problem: Problem, tmp_path: Path, kind: str) -> None:
    """The script also saves a cache that we read, and reads the one that we write."""
    trained = kind == "tip_adapter_f"
    found: list[Any] = []
    published = short(checkout, kind, tmp_path)
    ours = fit(published.method(SHORT if trained else {}, **CACHE), problem)
    settings = published.tree
    with script(checkout, problem) as (load, clip):
        main: Any = load("main")
        arguments = prepare_tip(load("utils"), clip, problem, settings)
        with recording(main, "search_hp", found):
            if trained:
                main.cls_acc = Accuracy(growing=ours.steps + EPOCHS)
                main.run_tip_adapter_F(settings, *arguments, clip, epochs(ours.batches))
            else:
                main.cls_acc = Accuracy()
                main.run_tip_adapter(settings, *arguments)
        logits = main.cls_acc.logits
        beta, alpha = found[-1]
        path = tmp_path / ("best_F_4shots.pt" if trained else "keys_4shots.pt")
        saved = torch.load(path)
        module = import_file(kind, path, problem, alpha=alpha, beta=beta, templates="all")
        assert_alike(module, problem, logits)
        convert.export_module(kind, module, tmp_path / "back", dtype="float32")
        again = settings | dict(load_cache=True, cache_dir=str(tmp_path / "back"))
        keys, values = load("utils").build_cache_model(again, clip, None)
    back = torch.load(tmp_path / "back" / path.name)
    assert torch.equal(back, module["keys"] if trained else module["keys"].T)
    if trained:
        checkout.compare(ours, {"keys": saved}, logits)
        return
    assert torch.equal(keys, arguments[0])
    assert torch.equal(values, arguments[1])
    theirs = dict(keys=arguments[0].T, values=arguments[1])
    theirs |= dict(beta=torch.tensor(beta), alpha=torch.tensor(alpha))
    checkout.compare(ours, theirs, logits, parameters=ours.module.stored)


@pytest.fixture
def ape_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Problem) -> Path:
    """Return the folder in which APE's scripts run. They write the criterion to ``caches``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "load", partial(torch.load, weights_only=False))
    (tmp_path / "caches" / "none").mkdir(parents=True)
    (tmp_path / "gpt3.json").write_text(json.dumps({name: [] for name in problem.labels.names}))
    return tmp_path


def choose_half(published: Published) -> dict[str, Any]:
    """Return the authors' settings with half of the channels, as ours have by their share."""
    numbers = ("training_free_feat_num", "training_feat_num", "feat_num")
    return published.tree | dict.fromkeys(numbers, 16)


def prepare_ape(extract: Any, clip: Any, problem: Problem, settings: dict[str, Any]) -> list[Any]:
    """Return the same as ``prepare_tip``; another script of the authors writes the features."""
    extract.cls_acc = Accuracy()
    extract.extract_few_shot_feature(settings, clip, views(problem, CACHE_VIEWS))
    labels = problem.labels
    extract.extract_text_feature(settings, labels.names, "gpt3.json", clip, labels.templates)
    arguments = [*extract.load_few_shot_feature(settings)]
    for name, loader in [("val", val(problem)), ("test", queries(problem))]:
        extract.extract_val_test_feature(settings, name, clip, loader)
        arguments += extract.loda_val_test_feature(settings, name)
    return [*arguments, extract.load_text_feature(settings)]


@pytest.mark.authors("yangyangyang127/APE")
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("ape", dict(training_free_feat_num=512, search_step=[20, 20, 5])),
        ("ape_t", dict(training_feat_num=512, search_step=[50, 20, 20])),
    ],
)
def test_ape(
    checkout: Checkout, problem: Problem, ape_folder: Path, kind: str, changes: dict[str, Any]
) -> None:
    trained = kind == "ape_t"
    published = short(checkout, kind, ape_folder, **changes)
    ours = fit(published.method(SHORT if trained else {}, **CACHE), problem)
    settings = choose_half(published)
    chosen: list[Any] = []
    with script(checkout, problem) as (load, clip):
        main: Any = load("main")
        arguments = prepare_ape(load("extract_features"), clip, problem, settings)
        main.cls_acc = Accuracy(growing=ours.steps + EPOCHS if trained else 0)
        with recording(main, "cal_criterion", chosen):
            if trained:
                main.APE_T(settings, *arguments, clip, epochs(ours.batches))
                adapter = torch.load(ape_folder / "APE-T_4shots.pt")
            else:
                main.APE(settings, *arguments)
    if trained:
        # The authors sort by the criterion, we by channels.
        theirs = dict(residual=adapter.res[:, adapter.indices.argsort()])
        theirs["value_weights"] = adapter.value_weights[:, 0]
    else:
        channels = torch.zeros(len(arguments[0])).index_fill(0, chosen[0], 1.0)
        theirs = dict(keys=arguments[0].T, values=arguments[1], channels=channels)
    parameters = {name: ours.module[name] for name in theirs}
    checkout.compare(ours, theirs, main.cls_acc.logits, parameters=parameters)


@pytest.mark.authors("mrflogs/ICLR24")
def test_gda(checkout: Checkout, problem: Problem) -> None:
    published = checkout.published("gda", dict(augment_epoch=len(problem.images)))
    ours = fit(published.method(templates="all"), problem)
    sums: list[Any] = []
    with script(checkout, problem) as (load, clip):
        utils: Any = load("utils")
        main: Any = load("main_few_shots")
        text = utils.clip_classifier(problem.labels.names, problem.labels.templates, clip)
        for name, loader in [("val", val(problem)), ("test", queries(problem))]:
            features, targets = utils.pre_load_features({}, name, clip, loader)
            vars(main).update({f"{name}_features": features, f"{name}_labels": targets})
        main.cls_acc = Accuracy()
        with recording(torch, "einsum", sums):
            main.run(published.tree, views(problem, len(problem.images)), text, clip)
    weight = sums[0].T
    quadratic = sums[1]
    bias = -torch.tensor(float(len(problem.labels))).log() - quadratic / 2
    checkout.compare(ours, dict(weight=weight, bias=bias), main.cls_acc.logits)
