"""Methods that train weights of the towers, or layers next to them, fit as authors' code does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from checkout import Checkout, Parts, give, pace, take, under
from checkpoints import assert_alike, fill, import_file
from feature_loaders import epochs, queries, val
from torch import Tensor, nn
from whole_fits import EPS, Problem, common_name, differences, fit, pose, recording

from compatbench.method import convert
from compatbench.methods import clip_lora
from compatbench.methods.clip_lora import PROJECTIONS
from compatbench.methods.flyp import FLYP
from compatbench.methods.ldc import LDC


@pytest.mark.authors("FarinaMatteo/rethinking_fewshot_vlms")
def test_twosfs(checkout: Checkout) -> None:
    """Without weight decay, and with the last norms, which the authors' code freezes by mistake."""
    problem = pose(shots=2, views=1, embed_dim=512)
    kept: list[Any] = []
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

        def keep_model(model: Any, *_: Any, **__: Any) -> float:
            kept.append(model)
            return 0.0

        stages.trainable_norm_params = choose_last_too
        stages.cls_acc = lambda *_: 0.0
        stages.evaluate_selective_inference = keep_model
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
    """Without weight decay, and with the β of the authors' scripts."""
    problem = pose()
    changes = dict(lr=1e-3, wd=0.0, batch_size=5, iters_per_epoch=12, beta=0.1)
    published = checkout.published("clipood", changes)
    ours = fit(published.method(dict(eps=EPS)), problem)
    batches = [(one.images, one.targets) for epoch in ours.batches for one in epoch]
    absent = ["converter_dassl", "converter_domainbed", "tensorboard"]
    with checkout.open(beside=["kdiAAA/TDA"], absent=absent) as load:  # for OpenAI's clip
        engine: Any = load("engine")
        clip = load("clip.model").build_model({**problem.weights}).eval()
        scale = problem.backbone.logit_scale
        settings = SimpleNamespace(**published.tree)
        settings.task = "open_class"
        settings.temperature = scale
        beta = torch.distributions.Beta(torch.tensor(settings.beta), torch.tensor(settings.beta))
        density = [float(beta.log_prob((i + torch.tensor(0.5)) / 13).exp()) for i in range(13)]
        mean = engine.GeneralMovingAverage(clip.visual, density.__getitem__)
        text = engine.get_text_features(clip, "a photo of a {}.", problem.labels.names, "cpu")
        pace = dict(lr=settings.lr, weight_decay=settings.wd, eps=EPS)
        optimizer = torch.optim.AdamW(clip.visual.parameters(), **pace)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        engine.accuracy = lambda *_, **__: [torch.zeros(1)]
        writer = SimpleNamespace(record_training_values=lambda _: None)
        given = (optimizer, schedule, 0, settings, writer, "cpu")
        engine.train(iter(batches), clip.visual, mean, text, *given)
        features = F.normalize(mean(problem.queries), dim=-1)
    named = mean.moving_avg.named_parameters(prefix="visual")
    checkout.compare(ours, differences(named, problem), scale * features @ text.T)


@pytest.mark.authors("locuslab/FLYP")
def test_flyp(checkout: Checkout) -> None:
    """Without weight decay. Weights before the text tower's blocks are frozen."""
    problem = pose()
    drawn: list[Any] = []
    changes = dict(lr=1e-4, weight_decay=0.0, batch_size=5, epochs=3, eps=EPS)
    recipe = FLYP.Config().recipe.model_copy(update=changes)
    with recording(torch, "randint", drawn):
        ours = fit(FLYP(FLYP.Config(recipe=recipe)), problem)
    batches = [one for epoch in ours.batches for one in epoch]
    names = problem.labels.names
    templates = problem.labels.templates
    with checkout.open(absent=["horovod", "src.datasets", "pandas"]) as load:
        loss = load("clip.loss").ClipLoss(cache_labels=True)
        clip: Any = load("clip.clip")
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


@pytest.mark.authors("Koorye/SkipTuning")
@pytest.mark.parametrize("every_class", [False, True])
def test_skip_tuning(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, every_class: bool
) -> None:
    """Without weight decay. Classes are skipped in batches of one image: the authors' are joint."""
    problem = pose()
    drawn: list[Any] = []
    size = 5 if every_class else 1
    changes = {"TRAINER.SKIP.START_LAYER": 1, "OPTIM.LR": 1e-3, "OPTIM.WEIGHT_DECAY": 0.0}
    changes |= under("SKIP", TOP_RATIO=1.0 if every_class else 0.3) | pace(3, size)
    published = checkout.published("skip_tuning", changes)
    published.tree.OPTIM.NEW_LR = 1.0  # of staged rates, which are not used
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with recording(torch, "rand", drawn):
        ours = fit(published.method(), problem)
    with checkout.trainer(published, problem, ours) as trainer:
        module: Any = sys.modules["trainers.skip_tuning"]
        ranks = [torch.cat([torch.zeros(2), numbers]) for numbers in drawn]
        monkeypatch.setattr(torch, "rand_like", lambda _: ranks.pop())
        trainer.model_summary = lambda: None  # of a ViT-B
        trainer.after_epoch = lambda: None  # which writes a checkpoint
        model = trainer.model

        class Features:
            """The authors' loader of features, with the batches of our fit."""

            def __init__(self, *_: Any) -> None:
                self.epochs = iter(ours.batches)

            def __len__(self) -> int:
                return len(ours.batches[0])

            def set_features(self, *_: Any) -> None:
                self.batches = next(self.epochs)

            def get_features(self) -> Iterator[tuple[Tensor, Tensor]]:
                for batch in self.batches:
                    with torch.no_grad():
                        features, _ = model.forward_image_features(batch.images)
                    yield features, batch.targets

        monkeypatch.setattr(module, "FeatureLoader", Features)
        trainer.extract_image_features = lambda _: (None, None, None)
        trainer.train()
        logits = model.eval()(problem.queries)
        own = dict(model.image_encoder.named_parameters(prefix="visual"))
        own |= dict(model.text_encoder.named_parameters())
    changed = {name: tensor for name, tensor in own.items() if name in problem.weights}
    theirs = differences(changed.items(), problem)
    theirs = {name: theirs[name] for name in ours.module.trained}
    name = "skip_tuning, every class" if every_class else "skip_tuning"
    checkout.compare(ours, theirs, logits, name=name)


@pytest.mark.authors("MaxZanella/CLIP-LoRA")
@pytest.mark.parametrize("encoder", ["both", "image", "text"])
def test_clip_lora(checkout: Checkout, encoder: str) -> None:
    """Both sides use our dropout masks, which are the same for all tokens and classes of a text."""
    problem = pose()
    masks: list[Tensor] = []
    changes = dict(n_iters=6, batch_size=6, lr=2e-3, encoder=encoder.replace("image", "vision"))
    published = checkout.published("clip_lora", changes)
    with recording(clip_lora, "draw_mask", masks):  # the last rate is in the authors' lora.py
        ours = fit(published.method(dict(final_lr=1e-6)), problem)
    with checkout.open(problem) as load:
        lora: Any = load("lora")
        layers: list[Any] = []
        apply = lora.apply_lora

        def start(*args: Any) -> list[Any]:
            layers.extend(apply(*args))
            for name, parts in low_rank_parts(layers, encoder).items():
                starts = ours.start[name].flatten(0, 1)
                for our_start, their_part in zip(starts, parts, strict=True):
                    their_part.data.copy_(our_start)
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
    """Return A and B of each block and projection, by our names; the text's layers come first."""
    text_layers = {"both": len(layers) // 2, "text": len(layers), "image": 0}[encoder]
    parts: dict[str, list[Tensor]] = {}
    for number, layer in enumerate(layers):
        tower = "text" if number < text_layers else "image"
        for name in PROJECTIONS:
            projection = getattr(layer, f"{name}_proj")
            parts.setdefault(f"{tower}_a", []).append(projection.w_lora_A)
            parts.setdefault(f"{tower}_b", []).append(projection.w_lora_B)
    return parts


def order_masks(masks: list[Tensor]) -> Iterator[Tensor]:
    """Yield our masks in the order of the authors' layers, for tokens ``[tokens, batch, d]``."""
    for mask in masks:
        if mask.ndim == 4:  # of the text tower, [blocks, 3, 1, d]
            yield from mask.flatten(0, 1)
        else:  # of a projection of the image tower, [batch, tokens, d]
            yield mask.transpose(0, 1)


@pytest.mark.authors("MaxZanella/CLIP-LoRA")
@pytest.mark.parametrize("encoder", ["both", "vision", "text"])
def test_clip_lora_in_a_file(checkout: Checkout, tmp_path: Path, encoder: str) -> None:
    """The towers have 12 blocks, as the authors' table of positions assumes."""
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
    """Return the logits of the queries by the authors' CLIP."""
    texts = F.normalize(model.encode_text(clip.tokenize(problem.labels.fill())), dim=-1)
    images = F.normalize(model.encode_image(problem.queries), dim=-1)
    return problem.backbone.logit_scale * images @ texts.T


def ldc_parts(model: Any) -> Parts:
    """Return the tensors of the authors' adapters by our names."""
    of_image = model.visual.adapter
    levels = [of_image[f"adapter_{i}"] for i in range(1, 5)]
    parts: Parts = {
        "adapters": [level[0].weight for level in levels],
        "gains": [level[1].weight for level in levels],
        "shifts": [level[1].bias for level in levels],
    }
    networks = {
        "head": of_image["adapter_mlp"],
        "logits": model.adapter["adapter_1"],
        "feature": model.adapter["adapter_2"],
        "confusion": model.adapter["adapter_3"],
        "gate": model.adapter["g_weight"],
    }
    for name, network in networks.items():
        first, norm, _, last = network[:4]
        parts[f"{name}_in"] = [*first.weight]
        parts[f"{name}_gain"] = [*norm.weight]
        parts[f"{name}_shift"] = [*norm.bias]
        parts[f"{name}_out"] = [*last.weight]
        parts[f"{name}_mean"] = [*norm.running_mean]
        parts[f"{name}_variance"] = [*norm.running_var]
    return parts


@pytest.mark.authors("LiShuo1001/LDC")
def test_ldc(checkout: Checkout, tmp_path: Path) -> None:
    """The authors' runner trains, chooses β by the validation images, and answers the queries."""
    problem = pose(embed_dim=32, layers=12)
    recipe = LDC.Config().recipe.model_copy(update={"lr": 1e-3, "epochs": 4, "batch_size": 8})
    ours = fit(LDC(LDC.Config(recipe=recipe, templates="all")), problem)
    assert ours.start is not None
    mixed: list[Any] = []
    loaders = iter([epochs(ours.batches), val(problem), queries(problem)])
    dataset = SimpleNamespace(
        classnames=list(problem.labels.names),
        template=list(problem.labels.templates),
        **dict.fromkeys(("train_x", "val", "test")),
    )
    settings = SimpleNamespace(
        backbone="ViT-B/16",
        cache_dir=str(tmp_path),
        num_classes=len(problem.labels),
        dataset_name="none",
        dataset=dataset,
        batch_size=8,
        lr=1e-2,  # of which the optimiser gets a tenth
        train_epoch=4,
        loss_lambda=[1.0] * 5,
        fuse_type=2,
    )
    with checkout.open(problem, absent=["alisuretool"]) as load:
        script: Any = load("ldc_train")
        script.DataLoader = lambda *_, **__: next(loaders)
        script.DatasetWrapper = lambda *_, **__: None
        (tmp_path / "none_ViT-B").mkdir()
        script.Tools.new_dir = lambda path: path
        mix = script.Eval.fuse_logits

        def note_mix(head: Tensor, corrected: Tensor, beta: float) -> Tensor:
            mixed.append((beta, mix(head, corrected, beta=beta)))
            return mixed[-1][1]

        script.Eval.fuse_logits = staticmethod(note_mix)
        runner = script.Runner(settings)
        give(ldc_parts(runner.clip_model), ours.start)
        runner.train()
    beta, logits = mixed[-1]
    theirs = {**take(ldc_parts(runner.clip_model)), "mix": torch.tensor(beta)}
    checkout.compare(ours, theirs, logits, parameters=ours.module.tensors)
