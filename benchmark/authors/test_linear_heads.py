"""Linear classifiers of features, and LFA's rotation, fit as their authors' scripts do."""

from __future__ import annotations

import math
import os
import runpy
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sklearn.linear_model
import torch
from checkout import Checkout
from feature_loaders import epochs, plain, val
from torch import Tensor, nn
from torch.utils.data import default_collate
from whole_fits import EPS, Problem, differences, fit, pose, recording

from compatbench.methods.lfa import LFA
from compatbench.methods.linear_probe import LinearProbe


@pytest.fixture
def pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``torch.load`` read whole objects, as older versions do by default."""
    monkeypatch.setattr(torch, "load", partial(torch.load, weights_only=False))


@pytest.mark.authors("FereshteShakeri/FewShot-CLIP-Strong-Baseline")
def test_lp_plus_plus(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = pose()
    published = checkout.published("lp_plus_plus")
    ours = fit(published.method(templates="all"), problem)
    kept: list[dict[str, Tensor]] = []
    alphas: list[Tensor] = []
    bias = ours.start.trained["bias"]  # type: ignore[union-attr]

    class Probe(nn.Linear):
        """The authors' layer with our bias; it is tested at each step that is best so far."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.bias.data.copy_(bias)

        def forward(self, features: Tensor) -> Tensor:
            logits = super().forward(features)
            if features is tests:
                state = dict(weight=self.weight, bias=self.bias, text_weight=alphas[0][0])
                kept.append({name: one.detach().clone() for name, one in state.items()})
                kept[-1]["logits"] = logits + alphas[0] * (features @ text)
            return logits

    with checkout.open(absent=["matplotlib"]) as load:
        clip = load("clip.model").build_model({**problem.weights}).eval()
        tests = nn.functional.normalize(clip.encode_image(problem.queries)).detach()
        names, templates = problem.labels.names, problem.labels.templates
        text = load("utils").clip_classifier(names, templates, clip)
        module: Any = load("methods.linear_probe_p2")
        module.nn = SimpleNamespace(Linear=Probe)
        variable = module.Variable

        def keep_variable(*args: Any, **kwargs: Any) -> Tensor:
            alphas.append(variable(*args, **kwargs))
            return alphas[0]

        module.Variable = keep_variable
        monkeypatch.setattr(torch, "float16", torch.float64)
        probe = module.LinearProbe_P2(published.tree | dict(dataset="", output_dir=""))
        labels = torch.arange(len(tests))
        probe(plain(problem), val(problem), tests, labels, text, clip, names)
    logits = kept[-1].pop("logits")
    checkout.compare(ours, kept[-1], logits, steps=ours.method.config.steps)


@pytest.mark.authors("KaiyangZhou/CoOp")
def test_linear_probe(checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    problem = pose(shots=16)
    backbone = problem.backbone
    ours = fit(LinearProbe(), problem)
    sets = {
        "train": (problem.images[0], problem.targets),
        "val": (problem.val, problem.val_targets),
        "test": (problem.queries, torch.arange(len(problem.queries))),
    }
    (tmp_path / "clip_feat" / "task").mkdir(parents=True)
    for name, (images, targets) in sets.items():
        features = dict(feature_list=backbone.encode_images(images), label_list=targets)
        arrays = {key: tensor.numpy() for key, tensor in features.items()}
        np.savez(tmp_path / "clip_feat" / "task" / f"{name}.npz", **arrays)
    tested: list[Any] = []

    class Recorded(sklearn.linear_model.LogisticRegression):
        """A regression that notes when it predicts the queries."""

        def predict(self, features: np.ndarray) -> np.ndarray:
            if len(features) == len(problem.queries):
                tested.append(self)
            return super().predict(features)

    with checkout.open(inside="lpclip"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["linear_probe.py", "--dataset=task", "--num_run=1"])
        monkeypatch.setattr(sklearn.linear_model, "LogisticRegression", Recorded)
        # Take the first shots of each class instead of a draw. The fit with sixteen is the last.
        monkeypatch.setattr(np.random, "choice", lambda rows, size, replace: rows[:size])
        runpy.run_path(str(checkout.path(f"{checkout.repository}/lpclip") / "linear_probe.py"))
    weight = torch.tensor(tested[-1].coef_)
    bias = torch.tensor(tested[-1].intercept_)
    logits = backbone.encode_images(problem.queries) @ weight.T + bias
    checkout.compare(ours, dict(weight=weight, bias=bias), logits)


@pytest.mark.authors("linzhiqiu/cross_modal_adaptation")
def test_cross_modal(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pickles: None
) -> None:
    scale = 4.60517  # the logarithm, as their script rounds it
    problem = pose(embed_dim=512, scale=math.exp(scale))
    published = checkout.published("cross_modal")
    sweep = published.tree["HYPER_DICT"]["linear"]
    sweep.update(batch_size=[4, 8], max_iter=[41], warmup_iter=5)
    ours = fit(published.method(batch_sizes=(4, 8), check_every=10, augment=True), problem)
    rng = torch.Generator().manual_seed(0)
    results: list[dict[str, Any]] = []
    classes = len(problem.labels)
    templates = len(problem.labels.templates)

    class Batches:
        """A loader in the order in which ours are drawn. Our texts are in another order."""

        def __init__(self, dataset: Any, batch_size: int, shuffle: bool, **_: Any) -> None:
            self.dataset = dataset
            self.size = batch_size
            self.shuffle = shuffle

        def __iter__(self) -> Iterator[Any]:
            order = torch.arange(len(self.dataset))
            if self.shuffle:
                order = torch.randperm(len(order), generator=rng)
                order = order[: len(order) // self.size * self.size]
            if type(self.dataset).__name__ == "TextTensorDataset":
                order = order % classes * templates + order // classes
            for rows in order.split(self.size):
                yield default_collate([self.dataset[int(row)] for row in rows])

    with checkout.open() as load:
        monkeypatch.setattr(torch, "FloatTensor", torch.DoubleTensor)
        features: Any = load("features")
        script: Any = load("train")
        words = [
            "--dataset=dtd", "--train-shot=4", "--clip-encoder=ViT-B/16",
            f"--feature_dir={tmp_path}", f"--result_dir={tmp_path}", f"--logit={scale}",
            "--image-augmentation=flip", f"--image-views={len(problem.images)}",
        ]  # fmt: skip
        args = script.parser.parse_args(words)
        write_features(load, features, problem, args)
        script.HYPER_DICT["linear"].update(sweep)
        script.EVAL_FREQ = 10
        script.DataLoader = Batches
        with recording(script, "train", results):
            script.main(args)
        # As the authors' eval.py does, take the first setting that is best on validation.
        best = max(results, key=lambda result: result["val_acc"])
        head = script.LogitHead(nn.Linear(512, classes, bias=False), scale)
        head.load_state_dict(best["logit_head"])
        logits = head(problem.backbone.encode_images(problem.queries))
    assert int(ours.module["steps"]) == best["iter"] + 1
    checkout.compare(ours, {"weight": head.head.weight}, logits, steps=41 * len(results))


def write_features(load: Any, features: Any, problem: Problem, args: Any) -> None:
    """Write the files that the authors' script for features leaves for the one that trains."""
    encoders = load("engine.clip.partial_model")
    clip = load("engine.clip.model").build_model({**problem.weights}).eval()
    image_encoder = encoders.get_image_encoder(args.clip_encoder, 0, clip)
    text_encoder = encoders.get_text_encoder(0, clip)
    features.get_templates = lambda *_: problem.labels.templates
    names = dict(enumerate(problem.labels.names))
    text = features.extract_text_features(args.dataset, "", text_encoder, names)
    all_views = problem.images.flatten(0, 1)
    sets = {
        "train": (problem.images[0], problem.targets),
        "val": (problem.val, problem.val_targets),
        "more": (all_views, problem.targets.repeat(len(problem.images))),
    }
    images = {}
    with torch.no_grad():
        for name, (pixels, targets) in sets.items():
            images[name] = dict(features=image_encoder.feature_extractor(pixels), labels=targets)
    where = (args.feature_dir, args.clip_encoder, 0)
    of_images = partial(
        features.get_image_features_path, args.dataset, args.train_shot, args.seed, *where
    )
    files = {
        f"{features.get_image_encoder_dir(*where)}/encoder.pth": image_encoder,
        f"{features.get_text_encoder_dir(*where)}/encoder.pth": text_encoder,
        features.get_text_features_path(args.dataset, *where, args.text_augmentation): text,
        features.get_test_features_path(args.dataset, *where): images["val"],
        of_images("none"): images,
        of_images("flip", args.image_views): {"train": images["more"]},
    }
    for path, content in files.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        torch.save(content, path)


@pytest.mark.authors("mlfoundations/wise-ft")
@pytest.mark.parametrize("method", ["wise_ft", "wise_ft_weights"])
def test_wise_ft(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pickles: None, method: str
) -> None:
    """The head alone, and with the image tower. ε is far above the rounding in its gradients."""
    problem = pose(views=1)
    alone = method == "wise_ft"
    # Without weight decay, which pulls the authors' head to zero and ours to zero-shot, and
    # without their clipping of gradients.
    changes = dict(epochs=6, batch_size=5, wd=0.0, lr=1e-3, warmup_length=0)
    published = checkout.published(method, changes)
    ours = fit(published.method(dict(lr=1e-3, epochs=6, batch_size=5, eps=EPS)), problem)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_: None)
    monkeypatch.setattr(torch.optim, "AdamW", partial(torch.optim.AdamW, eps=EPS))
    orders = iter(ours.batches)

    class Batches:
        """A loader with the batches of our next epoch."""

        def __init__(self, dataset: Any, **_: Any) -> None:
            self.dataset = dataset
            self.batches = next(orders)

        def __len__(self) -> int:
            return len(self.batches)

        def __iter__(self) -> Iterator[Any]:
            for batch in self.batches:
                yield default_collate([self.dataset[int(row)] for row in batch.rows])

    class Shots:
        """The data set. The head alone reads features once, under the plain view."""

        def __init__(self, *_: Any, **__: Any) -> None:
            self.classnames = problem.labels.names
            images = problem.images[0].split(5)
            targets = problem.targets.split(5)
            plain = [*zip(images, targets, strict=True)]
            self.train_loader = plain if alone else epochs(ours.batches)

    settings = published.tree | dict(save=str(tmp_path), cache_dir=str(tmp_path / "features"))
    settings |= dict(train_dataset="Shots", model="ViT-B/16", template="simple_template")
    settings |= dict(device="cpu", freeze_encoder=alone, data_location="")
    with checkout.open(problem) as load:
        # The package imports all data sets of the authors; only its common part is needed.
        datasets = ModuleType("src.datasets")
        sys.modules["src.datasets"] = datasets
        datasets.__path__ = [str(checkout.path(f"{checkout.repository}/src/datasets"))]
        vars(datasets)["Shots"] = Shots
        vars(load("src.datasets.common"))["DataLoader"] = Batches
        clip: Any = load("clip.clip")
        script: Any = load("src.wise_ft")
        modeling: Any = load("src.models.modeling")
        build = clip.build_model
        clip.load = lambda *_, **__: (build({**problem.weights}).eval(), None, None)
        script.wise_ft(SimpleNamespace(**settings))
        path = tmp_path / "finetuned" / f"wise_ft_alpha={settings['alpha'][0]:.3f}.pt"
        classifier = modeling.ImageClassifier.load(str(path))
        classifier.process_images = True
        logits = classifier(problem.queries)
    zero_shot = problem.backbone.logit_scale * problem.backbone.zero_shot(problem.labels)
    parameters = ours.module.trained | {"weight": zero_shot + ours.module["weight"]}
    head = classifier.classification_head
    theirs = {"weight": head.weight, "bias": head.bias}
    if not alone:
        visual = classifier.image_encoder.model.visual
        theirs |= differences(visual.named_parameters(prefix="visual"), problem)
    checkout.compare(ours, theirs, logits, parameters=parameters)


@pytest.mark.authors("saic-fi/LFA")
def test_lfa(checkout: Checkout) -> None:
    """The authors' Procrustes solution. Its β and their refinement of it are not in our method."""
    problem = pose(embed_dim=8, names=[f"name {i}" for i in range(12)])
    ours = fit(LFA(), problem)
    backbone = problem.backbone
    rows = problem.targets.repeat(len(problem.images))
    with checkout.open(absent=["loguru", "save_features"]) as load:
        utils: Any = load("alignment_utils")
        script: Any = load("feature_alignment")
        text = utils.l2_norm(backbone.text_features(problem.labels.fill()))
        images = utils.l2_norm(backbone.encode_images(problem.images.flatten(0, 1)))
        # Our method adds 1e-6 of the identity to the product. These samples do the same here.
        extra = 1e-3 * torch.eye(8)
        matched = torch.cat([utils.get_one_to_one_features(images, text, rows), extra])
        align = partial(script.procrustes_align, torch.cat([images, extra]), matched)
        rotation = align(beta=0.0)
        mixed = align(beta=1 - float(ours.module["beta"]))
        queries = utils.l2_norm(utils.l2_norm(backbone.encode_images(problem.queries)) @ mixed)
    logits = backbone.logit_scale * queries @ text.T
    checkout.compare(ours, {"rotation": rotation}, logits, name="lfa, closed form")
