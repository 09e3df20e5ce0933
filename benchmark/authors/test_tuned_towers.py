"""Methods that train the towers' own weights, or layers beside them, beside their authors' code.

And the way that learns on the target how to turn such layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import open_clip
import pytest
import torch
import torch.nn.functional as F
from checkout import Checkout
from checkpoints import assert_alike, fill, import_file
from configurations import Arguments
from feature_loaders import epochs, views
from torch import Tensor, nn
from whole_fits import EPS, OurFit, Problem, common_name, differences, fit, pose, recording

from compatbench.method import Module, convert
from compatbench.method.transfer import TransferData
from compatbench.methods import clip_lora
from compatbench.methods.clip_lora import PROJECTIONS, CLIPLoRA
from compatbench.methods.flyp import FLYP
from compatbench.transfers.few_shot_orthogonal import FewShotOrthogonal


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


@pytest.mark.authors("keigo0254/CrossModelTransfer")
def test_few_shot_orthogonal(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without warm-up and clipping. Theirs has a U of outputs, too, which turns no update of ours.

    So their mean distance from orthogonal matrices is over four projections of a block, not three.
    """
    problem, method = pose(views=3, scale=100.0), CLIPLoRA(CLIPLoRA.Config(encoder="image"))
    backbone, labels, data = problem.backbone, problem.labels, problem.data(method)
    rng, parts = torch.Generator().manual_seed(1), list[Any]()
    start = method.init(backbone, data, rng).trained
    module = Module({n: 0.3 * torch.randn(t.shape, generator=rng) for n, t in start.items()})
    way = FewShotOrthogonal(FewShotOrthogonal.Config(shots=4, rates=(1e-3,), epochs=3))
    ours = way.carry(method, module, backbone, labels, TransferData(way, labels=data))
    model: Any = copy.deepcopy(backbone.model)
    model.visual.transformer.batch_first = False  # as when they wrote
    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda *_, **__: (model, 0, 0))
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_, **__: None)
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda m, **_: nn.DataParallel(m))

    def apply_to(encoder: Any, _: float) -> Any:
        blocks = encoder.model.visual.transformer.resblocks
        parts.extend(getattr(one.attn, f"{x}_proj").Delta for one in blocks for x in PROJECTIONS)
        for part, a, b in zip(parts, *(module[n].flatten(0, 1) for n in start), strict=True):
            part.A.data, part.B.data = a, b
        return encoder

    args = Arguments(lr=1e-3, wd=0.1, ls=0, rank=2, alpha=2**0.5, beta=4 / 3, epochs=3, dropout=0)
    vars(args).update(train_datasets=["task"], dataset_type="cycle", adjust_type="fro")
    vars(args).update(warmup_length=0, grad_accum_steps=1, batch_size=20, num_workers=0)
    loader: Any = views(problem, 3, batch=20)
    loader.sampler = SimpleNamespace(set_epoch=lambda _: None)
    absent = ["wandb", "args", "datasets", "eval", "heads", "task_vectors"]
    with checkout.open(inside="src", absent=absent) as load:
        script: Any = load("orthogonal_finetune")
        head = load("modeling").ClassificationHead(True, 100 * backbone.zero_shot(labels))
        script.TaskVector.load_vector = lambda _: SimpleNamespace(apply_to=apply_to)
        script.maybe_dictionarize = lambda pair: dict(images=pair[0], labels=pair[1])
        script.setup_ddp = script.cleanup_ddp = lambda *_: None
        script.MixedDataset = script.get_dataloader = lambda *_, **__: [0]
        script.get_classification_head, script.distribute_loader = lambda *_: head, lambda _: loader
        logits = script.orthogonal_finetune("cpu", args).eval()(problem.queries)
    turned = dict(image_a=[x.A @ x.U for x in parts], image_b=[x.U.T @ x.B for x in parts])
    theirs = {name: torch.stack(part).view_as(ours[name]) for name, part in turned.items()}
    inputs = backbone.encode_images(problem.queries, method.image_input(backbone))
    found = method.attach(ours, backbone, labels)(inputs).detach()
    fitted = OurFit(method, None, ours, found, [])
    checkout.compare(fitted, theirs, logits, name="few-shot-orthogonal", steps=3)


@torch.no_grad()
def classify(model: Any, clip: Any, problem: Problem) -> Tensor:
    texts = F.normalize(model.encode_text(clip.tokenize(problem.labels.fill())), dim=-1)
    images = F.normalize(model.encode_image(problem.queries), dim=-1)
    return problem.backbone.logit_scale * images @ texts.T
