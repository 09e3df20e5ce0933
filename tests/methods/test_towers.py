"""Methods that act inside the towers: deep prompts, biases and low-rank updates."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from formulas import (
    WORDS,
    Formula,
    Tensors,
    adam,
    cosine_logits,
    cross_entropy,
    embed,
    fill,
    logits_test,
    mean_cosine,
    noise_like,
    photo_texts,
    prompted,
    step_test,
    unit,
)
from image_reference import few_shots, run_image_tower
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip_reference import text_tower
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module, NotTransferable
from compatbench.method.trained import Batch
from compatbench.methods.bitfit import BitFit
from compatbench.methods.clip_lora import CLIPLoRA
from compatbench.methods.coprompt import CoPrompt
from compatbench.methods.ivlp import IVLP
from compatbench.methods.maple import MaPLe
from compatbench.methods.promptsrc import PromptSRC
from compatbench.methods.vpt_deep import VPTDeep
from compatbench.methods.vpt_shallow import VPTShallow


def vpt_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """Tokens of each block among the image's own, before the zero-shot classifier."""
    features = run_image_tower(backbone.model.visual, images, list(own["image_prompts"]))
    return cosine_logits(backbone, photo_texts(backbone, labels), features)


def prompted_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    features, texts = prompted(backbone, labels, own, images)
    return cosine_logits(backbone, texts, features)


TEMPLATES = {
    "imagenet": [fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES][:60],
    "task": ["a photo of a {}.", "a drawing of the {}.", "{} texture"],
}


def promptsrc_loss(
    backbone: Backbone,
    labels: Labels,
    own: Tensors,
    images: Tensor,
    targets: Tensor,
    templates: str,
) -> Tensor:
    """Cross-entropy and three distances from what the frozen model says."""
    features, texts = prompted(backbone, labels, own, images)
    frozen = backbone.model.visual(images)  # type: ignore[operator]
    teacher = unit(torch.stack([fill(backbone, labels, t) for t in TEMPLATES[templates]]).mean(0))
    logits, frozen_logits = (
        cosine_logits(backbone, classes, rows)
        for classes, rows in ((texts, features), (teacher, frozen))
    )
    text_loss = (unit(texts) - teacher).abs().mean()
    image_loss = (unit(features) - unit(frozen)).abs().mean()
    p, log_q = frozen_logits.softmax(1), logits.log_softmax(1)
    divergence = (p * (p.log() - log_q)).mean()
    return cross_entropy(logits, targets) + 25 * text_loss + 10 * image_loss + divergence


def adapted(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor
) -> tuple[Tensor, Tensor]:
    """MaPLe's features of images and classes behind adapters."""

    def adapt(rows: Tensor, tower: str, ratio: float) -> Tensor:
        down, up = own[f"{tower}_down"], own[f"{tower}_up"]
        adapted = [(up @ (down @ row).clamp(min=0)).clamp(min=0) for row in rows]
        return ratio * torch.stack(adapted) + (1 - ratio) * rows

    features, texts = prompted(backbone, labels, own, images)
    return adapt(features, "image", 0.1), adapt(texts, "text", 0.2)


def coprompt_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    features, texts = adapted(backbone, labels, own, images)
    return cosine_logits(backbone, texts, features)


def add_low_ranks(
    backbone: Backbone,
    labels: Labels,
    own: Tensors,
    images: Tensor,
    scale: float,
    template: str = "a photo of a {}.",
) -> Tensor:
    """CLIP-LoRA, merged: W + (α/√r) B A for the queries, keys and values of the towers."""
    model: Any = copy.deepcopy(backbone.model)
    visual = model.visual
    towers = {
        "text": getattr(model, "text", model).transformer.resblocks,
        "image": visual.transformer.resblocks if hasattr(visual, "transformer") else None,
    }
    towers["image"] = towers["image"] or visual.trunk.blocks
    for kind in [kind for kind in towers if f"{kind}_a" in own]:
        for block, a, b in zip(towers[kind], own[f"{kind}_a"], own[f"{kind}_b"], strict=True):
            for j in range(3):
                matrix_of(block.attn, j).data += scale * b[j] @ a[j]
    return cosine_logits(
        backbone,
        fill(wrap(model, "updated"), labels, template),
        run_image_tower(visual, images, []),
    )


def matrix_of(attn: Any, j: int) -> Tensor:
    """The matrix of q, k or v, whether there is one for each or one for all."""
    if hasattr(attn, "q_proj"):
        return (attn.q_proj, attn.k_proj, attn.v_proj)[j].weight
    return attn.in_proj_weight.chunk(3)[j]


def bitfit_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """Every bias b of the text tower, found without the engine, becomes b + Δb."""
    changed = wrap(copy.deepcopy(backbone.model), "changed")
    names = [name for name, _ in text_tower(backbone).named_parameters()]
    assert list(own) == [n for n in names if n.endswith("bias") and not n.startswith("visual.")]
    for name, shift in own.items():
        owner, _, attribute = name.rpartition(".")
        module = text_tower(changed).get_submodule(owner)
        bias = module._parameters.pop(attribute)
        setattr(module, attribute, bias + shift)
    return cosine_logits(backbone, photo_texts(changed, labels), images)


LOW_RANKS: dict[str, tuple[dict[str, Any], float]] = {
    "clip_lora": ({}, 1 / math.sqrt(2)),
    "clip_lora-text": ({"encoder": "text"}, 1 / math.sqrt(2)),
    "clip_lora-image": ({"encoder": "image"}, 1 / math.sqrt(2)),
    "clip_lora-rank": ({"rank": 3, "alpha": 0.5}, 0.5 / math.sqrt(3)),
    "clip_lora-template": ({"template": "a drawing of a {}."}, 1 / math.sqrt(2)),
}

STEPS = {
    "bitfit": Formula(
        BitFit,
        bitfit_logits,
        update=adam(0.1, rate=1e-3),
        recipe={"warmup_epochs": 0, "eps": 0.1},
        exact=1e-9,
        step=1e-10,
    ),
    "vpt_deep": Formula(VPTDeep, vpt_logits, exact=1e-9),
    "vpt_deep-1": Formula(VPTDeep, vpt_logits, settings={"depth": 1}, exact=1e-9),
    "vpt_shallow": Formula(VPTShallow, vpt_logits, exact=1e-9),
    "ivlp": Formula(IVLP, prompted_logits, exact=1e-9),
    "ivlp-other": Formula(
        IVLP,
        prompted_logits,
        settings={"text_length": 4, "text_depth": 1, "image_length": 3, "image_depth": 2},
        exact=1e-9,
    ),
    "maple": Formula(MaPLe, prompted_logits, exact=1e-9),
    "maple-1": Formula(MaPLe, prompted_logits, settings={"depth": 1}, exact=1e-9),
    **{
        f"promptsrc-{templates}": Formula(
            PromptSRC,
            prompted_logits,
            partial(promptsrc_loss, templates=templates),
            settings={"templates": templates},
            exact=1e-9,
        )
        for templates in TEMPLATES
    },
}

FORMULAS = STEPS | {
    "coprompt": Formula(CoPrompt, coprompt_logits, exact=1e-9),
    **{
        name: Formula(
            CLIPLoRA,
            partial(
                add_low_ranks, scale=scale, template=settings.get("template", "a photo of a {}.")
            ),
            settings=settings,
            exact=1e-9,
        )
        for name, (settings, scale) in LOW_RANKS.items()
    },
}


test_logits_equal_the_formula = logits_test(FORMULAS)
test_the_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


@pytest.mark.parametrize("method", [IVLP, MaPLe, PromptSRC, CoPrompt])
def test_text_prompts_start_at_words(
    backbone: Backbone, labels: Labels, method: type[IVLP | MaPLe]
) -> None:
    module = method().init(backbone, few_shots(backbone, labels)[0], torch.Generator())
    first, *_ = module["text_prompts"]
    assert torch.equal(first, embed(backbone, WORDS)[: len(first)])


def test_vpt_s_text_is_the_same_for_every_task_or_the_task_s(clip: Backbone) -> None:
    labels = Labels(("dog", "tree"), ("{} texture.",), "{} texture.")
    module = VPTDeep().init(clip, few_shots(clip, labels)[0], torch.Generator())
    for template in ("a photo of a {}.", None):
        method = VPTDeep(VPTDeep.Config(template=template))
        expected = clip.zero_shot(labels, template or "{} texture.")
        torch.testing.assert_close(method.attach(module, clip, labels).weights, expected)


@pytest.mark.parametrize("entry", ["raw", "post-ln"])
def test_the_first_tokens_enter_another_tower_as_declared(
    clip64: Backbone, labels: Labels, entry: Any
) -> None:
    """After a norm of another tower's, they are other tokens if they are carried raw."""
    data, _ = few_shots(clip64, labels)
    method = VPTDeep(VPTDeep.Config(entry=entry, max_steps=1))
    module = method.fit(clip64, data, torch.Generator().manual_seed(1))
    assert set(module.stored) == ({"entered"} if entry == "post-ln" else set())
    raw = module["image_prompts"][0].double()
    model: Any = copy.deepcopy(clip64.model)
    entered = model.visual.ln_pre(raw)

    def check(expected: Tensor) -> None:
        [first, *_] = method.insert(module, wrap(model, "other"))
        torch.testing.assert_close(first.double(), expected, rtol=1e-5, atol=1e-5)

    check(entered)
    model.visual.ln_pre.bias.data += 1.0
    check(entered + 1 if entry == "raw" else entered)
    model.visual.ln_pre = torch.nn.Identity()
    check(raw if entry == "raw" else entered)


def test_maple_s_first_image_prompts_can_be_carried_behind_the_source_s_norm(
    clip: Backbone, labels: Labels
) -> None:
    data, _ = few_shots(clip, labels)
    module = MaPLe(MaPLe.Config(entry="post-ln", max_steps=2)).fit(clip, data, torch.Generator())
    tokens, weight, bias = (
        module[name][0] for name in ("text_prompts", "coupling_weight", "coupling_bias")
    )
    expected = clip.model.visual.ln_pre(tokens @ weight.T + bias)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(module.stored["entered"], expected)


def test_coprompt_s_loss_and_its_gradients_equal_the_formula(
    backbone64: Backbone, labels: Labels
) -> None:
    """Consistency under a template that is drawn, and under the next view."""
    data, views = few_shots(backbone64, labels)
    train, drawn = data.train, set()
    own = FORMULAS["coprompt"].draw_module(backbone64, data).trained
    tensors = [tensor.requires_grad_() for tensor in own.values()]
    classifier = CoPrompt().attach(Module(own), backbone64, labels)
    features, texts = adapted(backbone64, labels, own, views[0])
    entropy = cross_entropy(cosine_logits(backbone64, texts, features), train.targets)
    image_loss = 1 - mean_cosine(features, backbone64.model.visual(views[1]))  # type: ignore[operator]
    for seed in range(4):
        rng = torch.Generator().manual_seed(seed)
        tokens = train.inputs(torch.arange(10))
        given = train.views[0], train.targets, backbone64, labels, tokens, train.views[1], rng
        found = CoPrompt().loss(classifier, Batch(*given))
        template = labels.templates[int(torch.randint(3, (), generator=rng.manual_seed(seed)))]
        drawn.add(template)
        text_loss = 1 - mean_cosine(texts, fill(backbone64, labels, template))
        expected = entropy + text_loss + image_loss
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        gradients = [torch.autograd.grad(x, tensors, retain_graph=True) for x in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)
        assert all(gradient.abs().max() > 1e-6 for gradient in gradients[0])
    assert len(drawn) > 1


def test_promptsrc_s_average_over_epochs_is_gaussian() -> None:
    weights = PromptSRC().epoch_weights(50)
    density = [math.exp(-((j - 30) ** 2) / (2 * 30**2)) for j in range(1, 51)]
    assert weights == pytest.approx([value / sum(density) for value in density])


def test_bitfit_refuses_a_shallower_tower(clip: Backbone, data: FewShotData) -> None:
    module = BitFit().init(clip, data, torch.Generator())
    shallower = wrap(tiny_clip(layers=2), "shallower")
    with pytest.raises(NotTransferable, match=r"has no 'transformer.resblocks.2.*bias'"):
        BitFit().attach(module, shallower, data.labels)


def drop_features(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor, seed: int
) -> Tensor:
    """CLIP-LoRA's branches beside a CLIP's projections, under dropout.

    Of the text a mask of the columns, of images a mask of every number, all drawn from one stream,
    text first and in order of the blocks.
    """
    generator = torch.Generator().manual_seed(seed)
    model: Any = copy.deepcopy(backbone.model)

    def branch(block: Any, a: Tensor, b: Tensor, masks: Tensor) -> None:
        attn = block.attn
        heads, weight, bias = attn.num_heads, attn.in_proj_weight, attn.in_proj_bias

        def attend(q_x: Tensor, k_x: Any = None, v_x: Any = None, attn_mask: Any = None) -> Tensor:
            parts = []
            for j in range(3):
                own = q_x @ weight.chunk(3)[j].T + bias.chunk(3)[j]
                parts.append(own + (q_x * masks[j] / 0.75) @ a[j].T @ b[j].T / math.sqrt(2))
            q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in parts)
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            scores = scores if attn_mask is None else scores + attn_mask
            return attn.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

        block.attention = attend

    layers, width = backbone.text.depth, backbone.text.width
    keep = torch.rand(layers, 3, 1, width, generator=generator) >= 0.25
    for i, block in enumerate(model.transformer.resblocks):
        branch(block, own["text_a"][i], own["text_b"][i], keep[i])
    shape = len(images), backbone.image.tokens, backbone.image.width
    for i, block in enumerate(model.visual.transformer.resblocks):
        masks = torch.stack([torch.rand(shape, generator=generator) >= 0.25 for _ in range(3)])
        branch(block, own["image_a"][i], own["image_b"][i], masks)
    features = run_image_tower(model.visual, images, [])
    return cosine_logits(backbone, photo_texts(wrap(model, "masked"), labels), features)


def test_clip_lora_s_loss_under_dropout_and_its_gradients_equal_the_formula(
    float64: None, clip64: Backbone, labels: Labels
) -> None:
    data, views = few_shots(clip64, labels)
    own = noise_like(CLIPLoRA().init(clip64, data, torch.Generator()).trained)
    tensors = [tensor.requires_grad_() for tensor in own.values()]
    classifier = CLIPLoRA().attach(Module(own), clip64, labels)
    rng, tokens = torch.Generator().manual_seed(5), data.train.inputs(torch.arange(10))
    batch = Batch(data.train.plain, data.train.targets, clip64, labels, tokens, rng=rng)
    found = CLIPLoRA().loss(classifier, batch)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(5)))
    expected = cross_entropy(drop_features(clip64, labels, own, views[0], seed), batch.targets)
    assert (expected - cross_entropy(classifier(tokens), batch.targets)).abs() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(loss, tensors) for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-11)
