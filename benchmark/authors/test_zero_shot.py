"""Methods that train nothing give the logits of their authors' functions."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from checkout import Checkout
from configurations import functions
from whole_fits import NAMES, Problem, fit, pose, recording

from compatbench.data.cards import task_cards
from compatbench.methods.cupl import CuPL
from compatbench.methods.dclip import DCLIP
from compatbench.methods.simpleshot import SimpleShot

PHRASES = ("a long neck", "has four legs", "used for digging", "often red", "green leaves")


def defined(checkout: Checkout, scripts: Sequence[str], **names: Any) -> Any:
    """Return the functions of scripts, which cannot be imported because they would run.

    Args:
        checkout: the checkout of the repository.
        scripts: their paths in the repository.
        names: the globals that the functions use.
    """
    for script in scripts:
        path = checkout.path(checkout.repository) / script
        exec(compile(functions(path), str(path), "exec"), names)
    return SimpleNamespace(**names)


def describe(file: Path, *sentences: Sequence[str]) -> Problem:
    """Return a problem with sentences about its classes, and write them as the authors' file."""
    problem = pose(scale=100.0)
    file.write_text(json.dumps(dict(zip(problem.labels.names, sentences, strict=True))))
    return replace(problem, labels=replace(problem.labels, descriptions=sentences))


@pytest.mark.authors("KaiyangZhou/CoOp")
@pytest.mark.parametrize("method", ["zeroshot", "zeroshot_ensemble"])
def test_zero_shot(checkout: Checkout, method: str) -> None:
    problem = pose(templates=task_cards.read("oxford_pets").templates)
    published = checkout.published(method, task="oxford_pets")
    ours = fit(published.method(), problem)
    with checkout.trainer(published, problem, ours) as trainer, torch.no_grad():
        checkout.compare(ours, {}, trainer.model_inference(problem.queries))


@pytest.mark.authors("sarahpratt/CuPL")
def test_cupl(checkout: Checkout, tmp_path: Path) -> None:
    """A class has as many sentences as letters, so their number differs."""
    file = tmp_path / "prompts.json"
    sentences = [tuple(f"{name} with {letter}." for letter in name) for name in NAMES]
    problem = describe(file, *sentences)
    labels = problem.labels
    ours = fit(CuPL(), problem)
    with checkout.open(beside=["kdiAAA/TDA"]) as load:  # for OpenAI's clip
        model = load("clip.model").build_model({**problem.weights}).eval()
        names = dict(clip=load("clip"), model=model, PATH_TO_PROMPTS=file, tqdm=list)
        script = defined(checkout, ["classify_imagenet.py"], torch=torch, json=json, **names)
        weights = script.zeroshot_classifier_gpt(labels.names, labels.names, [], False)
    checkout.compare(ours, {}, 100 * problem.unit_features(problem.queries) @ weights)


@pytest.mark.authors("sachit-menon/classify_by_description_release")
def test_dclip(checkout: Checkout, tmp_path: Path) -> None:
    file = tmp_path / "phrases.json"
    problem = describe(file, *(PHRASES[: 1 + i] for i in range(len(NAMES))))
    ours = fit(DCLIP(), problem)
    with checkout.open(beside=["kdiAAA/TDA"]) as load:
        model = load("clip.model").build_model({**problem.weights}).eval()
        names: dict[str, Any] = dict(torch=torch, F=F, json=json, OrderedDict=OrderedDict)
        script = defined(
            checkout, ["loading_helpers.py", "load.py"], clip=load("clip"), **names, hparams={}
        )
        lines = (checkout.path(checkout.repository) / "load.py").read_text().splitlines()
        settings = []
        for line in lines:
            if line.startswith("hparams[") and "descriptor_fname" not in line:
                settings.append(line)
        exec("\n".join(settings), names | dict(hparams=script.hparams))
        script.hparams.update(descriptor_fname=str(file), device="cpu")
        texts, _ = script.load_gpt_descriptions(script.hparams)
        script.compute_description_encodings.__globals__["gpt_descriptions"] = texts
        with torch.no_grad():
            classes = script.compute_description_encodings(model).values()
        images = problem.unit_features(problem.queries)
        logits = torch.stack([script.aggregate_similarity(images @ v.T) for v in classes], 1)
    checkout.compare(ours, {}, 100 * logits)


@pytest.mark.authors("mileyan/simple_shot")
def test_simpleshot(checkout: Checkout) -> None:
    """The mean of the shots stands in for that of base classes, which do not exist here."""
    problem = pose(views=1)
    ours = fit(SimpleShot(), problem)
    distances: list[Any] = []
    shots = problem.unit_features(problem.images[0]).numpy()
    arguments = SimpleNamespace(meta_val_way=len(NAMES), num_NN=1)
    names = dict(np=np, LA=np.linalg, mode=scipy.stats.mode, args=arguments)
    script = defined(checkout, ["src/train.py"], **names)
    targets = problem.targets.numpy()
    queries = problem.unit_features(problem.queries).numpy()
    with recording(np.linalg, "norm", distances):
        script.metric_class_type(
            shots, queries, targets, np.arange(len(queries)), 4, train_mean=shots.mean(0)
        )
    logits = -problem.backbone.logit_scale * torch.tensor(distances[-1]).T.square()
    checkout.compare(ours, {}, logits, parameters={})
