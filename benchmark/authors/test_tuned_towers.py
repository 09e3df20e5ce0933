"""Methods that train the towers' own weights, or layers beside them, beside their authors' code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from checkout import Checkout
from checkpoints import assert_alike, fill, import_file
from feature_loaders import epochs
from torch import Tensor, nn
from whole_fits import EPS, Problem, common_name, differences, fit, pose, recording

from compatbench.method import convert
from compatbench.methods import clip_lora
from compatbench.methods.clip_lora import PROJECTIONS
from compatbench.methods.flyp import FLYP


@pytest.mark.authors("FarinaMatteo/rethinking_fewshot_vlms")
def test_twosfs(checkout: Checkout) -> None:
    """Without weight decay. Their code means to train the last norms, and freezes them again."""
    problem, kept = pose(shots=2, views=1, embed_dim=512), []
    published = checkout.published("twosfs", dict(n_iters=25, batch_size=5, wd=0.0, lr=1e-3))
    ours = fit(published.method(), problem)
    with checkout.open(absent=["peft"]) as load:
        clip = load("clip.model").build_model({**problem.weights}).eval()
        stages: Any = load("fs.twostage")
        choose = stages.trainable_norm_params

        def choose_last_too(model: Any, **more: Any) -> list[Any]:
            chosen = choose(model, **more)
            for norm in (model.visual.ln_post, model.ln_final):
                norm.requires_grad_(True)
            return chosen

        stages.trainable_norm_params, stages.cls_acc = choose_last_too, lambda *_: 0.0
        stages.evaluate_selective_inference = lambda model, *_, **__: kept.append(model) or 0.0
        names = list(problem.labels.names)
        task = SimpleNamespace(template=["a photo of a {}."], classnames=names)
        settings = SimpleNamespace(**published.tree, shots=2)
        stages.run_twostage(settings, clip, None, task, epochs(ours.batches), None, [])
        logits = kept[0].eval()(problem.queries)
        tokens = load("clip.clip").tokenize(problem.labels.fill())
        texts = F.normalize(clip.encode_text(tokens), dim=-1)
    theirs = differences(clip.named_parameters(), problem)
    theirs["residual"] = kept[0].classifier - texts
    checkout.compare(ours, {name: theirs[name] for name in ours.module.trained}, logits)


@pytest.mark.authors("thuml/CLIPood")
def test_clipood(checkout: Checkout) -> None:
    """Without weight decay, and at the β of their scripts."""
    problem = pose()
    changes = dict(lr=1e-3, wd=0.0, batch_size=5, iters_per_epoch=12, beta=0.1)
    published = checkout.published("clipood", changes)
    ours = fit(published.method(dict(eps=EPS)), problem)
    batches = [(one.images, one.targets) for epoch in ours.batches for one in epoch]
    absent = ["converter_dassl", "converter_domainbed", "tensorboard"]
    with checkout.open(beside=["kdiAAA/TDA"], absent=absent) as load:  # for OpenAI's clip
        engine: Any = load("engine")
        clip = load("clip.model").build_model({**problem.weights}).eval()
        scale, settings = problem.backbone.logit_scale, SimpleNamespace(**published.tree)
        settings.task, settings.temperature = "open_class", scale
        beta = torch.distributions.Beta(*map(torch.tensor, [settings.beta] * 2))
        density = [float(beta.log_prob((i + torch.tensor(0.5)) / 13).exp()) for i in range(13)]
        mean = engine.GeneralMovingAverage(clip.visual, density.__getitem__)
        text = engine.get_text_features(clip, "a photo of a {}.", problem.labels.names, "cpu")
        pace = dict(lr=settings.lr, weight_decay=settings.wd, eps=EPS)
        optimizer = torch.optim.AdamW(clip.visual.parameters(), **pace)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        engine.accuracy = lambda *_, **__: [torch.zeros(1)]
        writer = SimpleNamespace(record_training_values=lambda _: None)
        given = optimizer, schedule, 0, settings, writer, "cpu"
        engine.train(iter(batches), clip.visual, mean, text, *given)
        features = F.normalize(mean(problem.queries), dim=-1)
    named = mean.moving_avg.named_parameters(prefix="visual")
    checkout.compare(ours, differences(named, problem), scale * features @ text.T)


@pytest.mark.authors("locuslab/FLYP")
def test_flyp(checkout: Checkout) -> None:
    """Without weight decay, and with what is before the text tower's blocks frozen."""
    problem, drawn = pose(), []
    changes = dict(lr=1e-4, weight_decay=0.0, batch_size=5, epochs=3, eps=EPS)
    recipe = FLYP.Config().recipe.model_copy(update=changes)
    with recording(torch, "randint", drawn):
        ours = fit(FLYP(FLYP.Config(recipe=recipe)), problem)
    batches = [one for epoch in ours.batches for one in epoch]
    names, templates = problem.labels.names, problem.labels.templates
    with checkout.open(absent=["horovod", "src.datasets", "pandas"]) as load:
        loss, clip = load("clip.loss").ClipLoss(cache_labels=True), load("clip.clip")
        model = load("clip.model").build_model({**problem.weights})
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(common_name(name) in ours.module.trained)
        learned = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=1e-4, weight_decay=0, eps=EPS)
        schedule = load("src.models.utils").cosine_lr(optimizer, 1e-4, 0, len(batches))
        for step, (batch, numbers) in enumerate(zip(batches, drawn, strict=True)):
            schedule(step)
            optimizer.zero_grad()
            pairs = zip(numbers.tolist(), batch.targets.tolist(), strict=True)
            tokens = clip.tokenize([templates[i].format(names[c]) for i, c in pairs])
            loss(*model(batch.images, tokens)).backward()
            optimizer.step()
        texts = [clip.tokenize([one.format(name) for one in templates]) for name in names]
        means = [F.normalize(model.encode_text(own), dim=-1).mean(0) for own in texts]
        images = F.normalize(model.encode_image(problem.queries), dim=-1)
        logits = model.logit_scale.exp() * images @ F.normalize(torch.stack(means), dim=-1).T
    theirs = differences(model.named_parameters(), problem)
    checkout.compare(ours, {name: theirs[name] for name in ours.module.trained}, logits)


@pytest.mark.authors("MaxZanella/CLIP-LoRA")
@pytest.mark.parametrize("encoder", ["both", "image", "text"])
def test_clip_lora(checkout: Checkout, encoder: str) -> None:
    """Both drop what our masks say: they have one for all tokens and classes of a text."""
    problem, masks = pose(), []
    changes = dict(n_iters=6, batch_size=6, lr=2e-3, encoder=encoder.replace("image", "vision"))
    published = checkout.published("clip_lora", changes)
    with recording(clip_lora, "draw_mask", masks):  # the last rate is said in their lora.py
        ours = fit(published.method(dict(final_lr=1e-6)), problem)
    with checkout.open(problem) as load:
        lora, layers = load("lora"), []
        apply = lora.apply_lora

        def start(*args: Any) -> list[Any]:
            layers.extend(apply(*args))
            for name, parts in low_rank_parts(layers, encoder).items():
                for mine, own in zip(ours.start[name].flatten(0, 1), parts, strict=True):
                    own.data.copy_(mine)
            return layers

        lora.apply_lora = start
        lora.cls_acc = lambda *_: 0.0  # needs an older NumPy
        dropped = order_masks(masks)
        settings = SimpleNamespace(**published.tree | dict(shots=problem.shots))
        dataset = SimpleNamespace(
            classnames=list(problem.labels.names), template=[problem.labels.templates[0]]
        )
        test = [(problem.queries, torch.zeros(len(problem.queries), dtype=torch.long))]
        scale = problem.backbone.logit_scale
        with mock.patch.object(nn.Dropout, "forward", lambda self, x: x * next(dropped)):
            model, _ = load("clip").load("ViT-B/16", device="cpu")
            lora.run_lora(settings, model, scale, dataset, epochs(ours.batches), test, test)
        parts = low_rank_parts(layers, encoder)
        fitted = {name: torch.stack(part).view_as(ours.start[name]) for name, part in parts.items()}
        logits = classify(model, load("clip"), problem)
    checkout.compare(ours, fitted, logits, name=f"clip_lora, {encoder}")


def low_rank_parts(layers: list[Any], encoder: str) -> dict[str, list[Tensor]]:
    """A and B of each block and projection; the text's layers come first."""
    half = {"both": len(layers) // 2, "text": len(layers), "image": 0}[encoder]
    parts = {}
    for tower, own in (("text", layers[:half]), ("image", layers[half:])):
        for side in "ab" if own else "":
            parts[f"{tower}_{side}"] = [
                getattr(getattr(layer, f"{one}_proj"), f"w_lora_{side.upper()}")
                for layer in own
                for one in PROJECTIONS
            ]
    return parts


def order_masks(masks: list[Tensor]) -> Iterator[Tensor]:
    """Our masks as the authors' layers ask for them, for tokens ``[tokens, batch, d]``."""
    for mask in masks:
        if mask.ndim == 4:  # of the text tower, [blocks, 3, 1, d]
            yield from mask.flatten(0, 1)
        else:  # of a projection of the image tower, [batch, tokens, d]
            yield mask.transpose(0, 1)


@pytest.mark.authors("MaxZanella/CLIP-LoRA")
@pytest.mark.parametrize("encoder", ["both", "vision", "text"])
def test_clip_lora_in_a_file(checkout: Checkout, tmp_path: Path, encoder: str) -> None:
    """A tower of 12 blocks, as its table of positions has."""
    problem = pose(layers=12)
    changes = dict(encoder=encoder, alpha=3, save_path=str(tmp_path), filename="lora")
    published = checkout.published("clip_lora", changes | dict(dataset="things", shots=4))
    given = SimpleNamespace(**published.tree | dict(dropout_rate=0.0))
    path = tmp_path / "vitb16" / "things" / "4shots" / "seed1" / "lora.pt"
    with checkout.open(problem) as load:
        utils = load("loralib.utils")
        model, _ = load("clip").load("ViT-B/16", device="cpu")
        layers = utils.apply_lora(given, model)
        learned = [p for name, p in model.named_parameters() if "lora_" in name]
        fill(learned, 0.1, 3)
        utils.save_lora(given, layers)
        module = import_file("clip_lora", path, problem)
        assert_alike(module, problem, classify(model, load("clip"), problem))
        fill(learned, 0.0, 3)
        convert.export_module("clip_lora", module, path, dtype="float32")
        utils.load_lora(given, layers)
        again = import_file("clip_lora", path, problem)
        assert_alike(again, problem, classify(model, load("clip"), problem))


@torch.no_grad()
def classify(model: Any, clip: Any, problem: Problem) -> Tensor:
    texts = F.normalize(model.encode_text(clip.tokenize(problem.labels.fill())), dim=-1)
    images = F.normalize(model.encode_image(problem.queries), dim=-1)
    return problem.backbone.logit_scale * images @ texts.T
