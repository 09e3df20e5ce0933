"""Methods that train the towers' own weights, beside their authors' code."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checkout import Checkout
from feature_loaders import epochs
from test_inside_towers import recording
from torch import Tensor
from whole_fits import Compare, Problem, fit, pose

from compatbench.methods.clipood import CLIPood
from compatbench.methods.flyp import FLYP
from compatbench.methods.twosfs import TwoSFS

# An ε of Adam far above the rounding in gradients that are zero, such as those of key biases.
EPS = 1e-4


@pytest.mark.authors("FarinaMatteo/rethinking_fewshot_vlms")
def test_twosfs(checkout: Checkout, compare: Compare) -> None:
    """Without weight decay. Their code means to train the last norms, and freezes them again."""
    problem, kept = pose(shots=2, views=1, embed_dim=512), []
    recipe = TwoSFS.Config().recipe.model_copy(update=dict(batch_size=5, weight_decay=0.0, lr=1e-3))
    ours = fit(TwoSFS(TwoSFS.Config(recipe=recipe, steps_per_shot=25)), problem)
    settings = dict(peft="ln", ln_vision_start=0, ln_text_start=0, ln_modality="both", wd=0.0)
    settings |= dict(lr=1e-3, n_iters=25, shots=2, n_iters_frac=0.6, debug=False, setting="all")
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
        loader = epochs(ours.batches)
        stages.run_twostage(SimpleNamespace(**settings), clip, None, task, loader, None, [])
        logits = kept[0].eval()(problem.queries)
        tokens = load("clip.clip").tokenize(problem.labels.fill())
        texts = F.normalize(clip.encode_text(tokens), dim=-1)
    theirs = differences(clip.named_parameters(), problem)
    theirs["residual"] = kept[0].classifier - texts
    compare(ours, {name: theirs[name] for name in ours.module.trained}, logits)


def differences(named: Iterable[tuple[str, Tensor]], problem: Problem) -> dict[str, Tensor]:
    """What has changed of a CLIP's weights, by our names."""
    return {common_name(name): tensor - problem.weights[name] for name, tensor in named}


def common_name(name: str) -> str:
    if name == "logit_scale":
        return "log_scale"
    tower, name = ("image", name[7:]) if name.startswith("visual.") else ("text", name)
    return f"{tower}.{name}"


@pytest.mark.authors("thuml/CLIPood")
def test_clipood(checkout: Checkout, compare: Compare) -> None:
    """Without weight decay."""
    problem = pose()
    changes = dict(lr=1e-3, weight_decay=0.0, batch_size=5, eps=EPS)
    recipe = CLIPood.Config().recipe.model_copy(update=changes)
    ours = fit(CLIPood(CLIPood.Config(recipe=recipe, steps=12)), problem)
    batches = [(one.images, one.targets) for epoch in ours.batches for one in epoch]
    absent = ["converter_dassl", "converter_domainbed", "tensorboard"]
    with checkout.open(beside=["kdiAAA/TDA"], absent=absent) as load:  # for OpenAI's clip
        engine: Any = load("engine")
        clip = load("clip.model").build_model({**problem.weights}).eval()
        beta = torch.distributions.Beta(torch.tensor(0.1), torch.tensor(0.1))
        density = [float(beta.log_prob((i + torch.tensor(0.5)) / 13).exp()) for i in range(13)]
        mean = engine.GeneralMovingAverage(clip.visual, density.__getitem__)
        text = engine.get_text_features(clip, "a photo of a {}.", problem.labels.names, "cpu")
        optimizer = torch.optim.AdamW(clip.visual.parameters(), lr=1e-3, weight_decay=0, eps=EPS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        scale = problem.backbone.logit_scale
        settings = SimpleNamespace(iters_per_epoch=12, task="open_class", print_freq=100)
        settings.temperature, settings.lam = scale, 0.3
        engine.accuracy = lambda *_, **__: [torch.zeros(1)]
        writer = SimpleNamespace(record_training_values=lambda _: None)
        given = optimizer, schedule, 0, settings, writer, "cpu"
        engine.train(iter(batches), clip.visual, mean, text, *given)
        features = F.normalize(mean(problem.queries), dim=-1)
    named = mean.moving_avg.named_parameters(prefix="visual")
    compare(ours, differences(named, problem), scale * features @ text.T)


@pytest.mark.authors("locuslab/FLYP")
def test_flyp(checkout: Checkout, compare: Compare) -> None:
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
    compare(ours, {name: theirs[name] for name in ours.module.trained}, logits)
