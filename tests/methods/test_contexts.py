"""Methods that learn the words around a class name: CoOp and its descendants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from formulas import (
    Case,
    Formula,
    Tensors,
    adam,
    close,
    cosine_logits,
    cross_entropy,
    descend,
    embed,
    logits_test,
    make,
    mean_cosine,
    scale_of,
    seeded,
    step_test,
    unit,
    unit_texts,
    variants,
)
from open_clip_reference import encode_contexts, run_tower, text_tower
from tiny_models import MakeData, tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Teacher


def place_names(backbone: Backbone, labels: Labels, contexts: Tensor, position: str) -> Tensor:
    """Return features of [SOS, v₁..v_h, name, v_h+1..v_M, ".", EOT], h = M, M/2 or 0.

    Args:
        contexts: v, shared by all classes or one for each.
    """
    tower = text_tower(backbone)
    table: Tensor = tower.token_embedding.weight
    contexts = contexts.expand(len(labels), -1, -1)
    rows = []
    last = []
    for name, context in zip(labels.names, contexts, strict=True):
        length = len(context)
        half = {"end": length, "middle": length // 2, "front": 0}[position]
        dot = len(backbone.tokenizer.encode(name))
        embedded = table[backbone.tokenizer([f"{name}."])[0]]
        start = embedded[:1]
        words = embedded[1:]
        prompt = [start, context[:half], words[:dot], context[half:], words[dot:-length]]
        rows.append(torch.cat(prompt))
        last.append(1 + length + dot + 1)
    return run_tower(tower, torch.stack(rows), torch.tensor(last))


def coop_logits(at: Case) -> Tensor:
    position = at.settings.get("position", "end")
    return at.cosines(place_names(at.backbone, at.labels, at.own["context"], position))


def kgcoop_texts(at: Case) -> Tensor:
    return encode_contexts(at.backbone, at.labels.names, at.own["context"])


def cocoop_logits(at: Case) -> Tensor:
    """Return logits of v_m(x) = v_m + W₂ ReLU(W₁ f̂ + b₁) + b₂: texts depend on the image."""
    rows = []
    for f in at.images:
        hidden = torch.clamp(at.own["down"] @ unit(f) + at.own["down_bias"], min=0)
        shift = at.own["up"] @ hidden + at.own["up_bias"]
        texts = encode_contexts(at.backbone, at.labels.names, at.own["context"] + shift)
        rows.append(at.cosines(texts, f[None])[0])
    return torch.stack(rows)


def tcp_texts(at: Case) -> Tensor:
    """Return texts whose context rows become W₂ q(W₁ t⁰_c + b₁) + b₂ before a block.

    The block is at two thirds of the depth.
    """
    tower = text_tower(at.backbone)
    block = tower.transformer.layers * 2 // 3
    teacher = at.settings.get("teacher") or at.labels.teacher_template
    template = at.settings.get("template") or "{}" + teacher.split("{}")[1]
    ids = at.backbone.tokenizer([f"X X X X {template.format(name)}" for name in at.labels.names])
    words = tower.token_embedding(ids)
    shared = at.own["context"].expand(len(ids), -1, -1)
    x = torch.cat([words[:, :1], shared, words[:, 5:]], dim=1) + tower.positional_embedding
    for i, layer in enumerate(tower.transformer.resblocks):
        if i == block:
            u = unit(at.fill(teacher)) @ at.own["down"].T + at.own["down_bias"]
            rows = (u * torch.sigmoid(1.702 * u)) @ at.own["up"].T + at.own["up_bias"]
            x = torch.cat([x[:, :1], rows.unflatten(1, (4, 32)), x[:, 5:]], dim=1)
        x = layer(x, attn_mask=tower.attn_mask)
    x = tower.ln_final(x)[torch.arange(len(x)), ids.argmax(-1)]
    return x @ tower.text_projection


def dept_head(own: Tensors, kind: str, rows: Tensor) -> Tensor:
    """Return the logits of a linear head on γ ⊙ x + β."""
    moved = own[f"{kind}_gain"] * rows + own[f"{kind}_shift"]
    return moved @ own["head"].T + own["head_bias"]


def dept_logits(at: Case) -> Tensor:
    return 0.3 * coop_logits(at) + 0.7 * dept_head(at.own, "image", at.images)


def dept_loss(at: Case) -> Tensor:
    texts = encode_contexts(at.backbone, at.labels.names, at.own["context"])
    entropy = at.entropy(at.cosines(texts))
    of_images = at.entropy(dept_head(at.own, "image", at.images))
    of_texts = at.entropy(dept_head(at.own, "text", texts[at.targets]))
    return 0.3 * entropy + 0.7 * (of_images + of_texts) / 2


def dept_update(name: str, x: Tensor, gradient: Tensor) -> Tensor:
    """Take a step with a larger rate for everything but the prompts."""
    rate = 3.5e-3
    if name != "context":
        rate *= 6.5
    return x - rate * (gradient + 5e-4 * x)


def contcoop_texts(at: Case) -> Tensor:
    """Encode contexts p + the first N rows of softmax(U W_q (U W_k)ᵀ / √D) U W_v, U = [p; E]."""
    own = at.own
    settings = at.settings
    heads = settings.get("heads", 1)
    attention = settings.get("attention", "self")
    prompts = own["prompts"]
    width = 32 // heads
    zero = torch.zeros(32, dtype=prompts.dtype)
    assert any("bias" in name for name in own) == settings.get("biases", False)
    query_bias = own.get("query_bias", zero)
    value_bias = own.get("value_bias", zero)
    projection_bias = own.get("projection_bias", zero)
    kind = settings.get("class_embedding", "tokens")
    teacher = at.fill(at.labels.teacher_template)
    contexts = []
    for name, text in zip(at.labels.names, teacher, strict=True):
        words = embed(at.backbone, name)
        if kind == "mean":
            words = torch.stack([sum(words) / len(words)])
        elif kind == "feature":
            words = torch.stack([unit(text) @ own["projection"] + projection_bias])
        seen = {"self": torch.cat([prompts, words]), "cross": words, "prompts": prompts}[attention]
        parts = []
        for h in range(heads):
            columns = slice(h * width, (h + 1) * width)
            q = (prompts @ own["query"] + query_bias)[:, columns]
            k = (seen @ own["key"])[:, columns]
            v = (seen @ own["value"] + value_bias)[:, columns]
            parts.append(torch.softmax(q @ k.T / math.sqrt(width), dim=1) @ v)
        mixed = torch.cat(parts, dim=1)
        if "output_projection" in settings:
            mixed = mixed @ own["output"]
        if settings.get("residual", True):
            mixed = mixed + prompts
        contexts.append(mixed)
    return encode_contexts(at.backbone, at.labels.names, torch.stack(contexts))


def proda_weights(backbone: Backbone, labels: Labels, contexts: Tensor) -> Tensor:
    """Return w_kc: a quarter of the contexts follows the name, another quarter surrounds it."""
    places = ["front"] * 2 + ["middle"] * 2 + ["end"] * 4
    rows = []
    for context, place in zip(contexts, places, strict=True):
        rows.append(place_names(backbone, labels, context, place))
    return unit(torch.stack(rows))


def proda_logits(at: Case) -> Tensor:
    mean = proda_weights(at.backbone, at.labels, at.own["contexts"]).mean(0)
    return at.scale * unit(at.images) @ mean.T


def taught(
    method: str, texts_of: Callable[[Case], Tensor], *settings: dict[str, Any], **options: Any
) -> list[Formula]:
    """Return formulas with class features kept near a teacher's: L_ce + 8 (1 − mean cos)."""

    def loss(at: Case) -> Tensor:
        texts = texts_of(at)
        teacher = at.fill(at.settings.get("teacher") or at.labels.teacher_template)
        return at.entropy(at.cosines(texts)) + 8.0 * (1 - mean_cosine(texts, teacher))

    return variants(method, lambda at: at.cosines(texts_of(at)), *settings, loss=loss, **options)


CONTCOOP: list[dict[str, Any]] = [
    {},
    dict(heads=4),
    dict(attention="cross"),
    dict(attention="prompts", heads=2),
    dict(output_projection=True),
    dict(residual=False),
    dict(class_embedding="mean", biases=True),
    dict(class_embedding="feature", biases=True, residual=False),
    dict(heads=2, attention="cross", output_projection=True, residual=False),
]


def dekg_loss(at: Case) -> Tensor:
    """Return L_ce + 8 (1 − mean cos) + 6 tr(H K H K⁰), texts divided by their Frobenius norm."""
    learned = kgcoop_texts(at)
    teacher = at.fill(at.labels.teacher_template)
    count = len(teacher)
    centring = torch.eye(count).double() - torch.ones(count, count).double() / count
    kernel = unit(learned) @ unit(learned).T / unit(learned).square().sum()
    teacher_kernel = unit(teacher) @ unit(teacher).T / unit(teacher).square().sum()
    dependence = torch.trace(centring @ kernel @ centring @ teacher_kernel)
    distance = 1 - mean_cosine(learned, teacher)
    return at.entropy(at.cosines(learned)) + 8.0 * distance + 6.0 * dependence


TCP_WORDS = {"teacher": "an {} drawn.", "template": "person doing {}, a type of car"}

OF_TCP: dict[str, Any] = dict(
    update=adam(1e-3, rate=2e-3, coupled=5e-4), recipe={"warmup_epochs": 0}
)
PLACES = [("end", 4, True), ("middle", 5, False), ("middle", 1, False), ("middle", 4, True)]
PLACES += [("front", 4, False), ("front", 4, True)]
COOP = [
    dict(position=position, context_length=length, class_specific=own)
    for position, length, own in PLACES
]
PRODA = Formula("proda", proda_logits, settings={"prompts": 8, "context_length": 4})
STEPS = [
    *variants("coop", coop_logits, {}, *COOP),
    *taught("kgcoop", kgcoop_texts, {}, start=lambda at, _: {"context": embed(at, "a photo of a")}),
    *taught("kgcoop", kgcoop_texts, {"teacher": "a drawing of a {}.", "context_words": None}),
    Formula("dekg", lambda at: at.cosines(kgcoop_texts(at)), dekg_loss),
    # With a wider bottleneck, some units are on in every step.
    Formula("cocoop", cocoop_logits, settings={"reduction": 1}),
    *taught("tcp", tcp_texts, {}, TCP_WORDS, **OF_TCP),
    Formula("dept", dept_logits, dept_loss, dept_update, {"warmup_epochs": 0}, step=1e-10),
    *taught("contcoop", contcoop_texts, *CONTCOOP),
]
# ProDA draws prompts for a step and has a separate test below. The gradient of ProGrad is not that
# of its loss, and MERGETUNE has two stages: their whole fits are compared with the authors' code.
FORMULAS = [
    *STEPS,
    Formula("prograd", coop_logits),
    Formula("mergetune", lambda at: at.cosines(kgcoop_texts(at))),
    PRODA,
]


test_logits_equal_the_formula = logits_test(FORMULAS)
test_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


@pytest.mark.parametrize("layers", [2, 5, 6, 12])
def test_tcp_block_is_at_two_thirds_of_the_depth(
    data64: FewShotData, images64: Tensor, layers: int
) -> None:
    backbone = wrap(tiny_clip(layers=layers).double(), "deep")
    taught("tcp", tcp_texts, {})[0].check_logits(backbone, data64, images64)


def proda_bound(backbone: Backbone, weights: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Return the bound on the expected cross-entropy; covariance matrices are diagonal."""
    scale = scale_of(backbone)
    mean = weights.mean(0)

    def covariance(c: int, d: int) -> Tensor:
        """Return the diagonal."""
        products = (weights[:, c] - mean[c]) * (weights[:, d] - mean[d])
        return products.sum(0) / (len(weights) + 1)

    rows = []
    for f, y in zip(unit(images), targets.tolist(), strict=True):
        row = []
        for c in range(weights.shape[1]):
            spread = covariance(c, c) + covariance(y, y) - 2 * covariance(c, y)
            row.append(scale * mean[c].dot(f) + scale**2 / 2 * f.square().dot(spread))
        rows.append(torch.stack(row))
    return cross_entropy(torch.stack(rows), targets)


def test_proda_first_step_follows_the_gradient_of_its_bound(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    method = PRODA.build(recipe={"warmup_epochs": 0, "lr": 0.1}, max_steps=1, prompts_per_step=3)
    found = method.fit(clip64, data64, seeded(3))["contexts"]

    rng = seeded(3)
    start = method.init(clip64, data64, rng)["contexts"].requires_grad_()
    order = torch.randperm(len(data64.train), generator=rng)
    images = data64.train.views[0][order]
    targets = data64.train.targets[order]
    chosen = torch.randperm(8, generator=rng)[:3]
    weights = proda_weights(clip64, data64.labels, start)[chosen]
    # The mean |cos| over pairs of contexts without a class name.
    nameless = [encode_contexts(clip64, [""], context) for context in start]
    texts = unit(torch.cat(nameless))
    overlaps = []
    for i, j in itertools.permutations(range(8), 2):
        overlaps.append(texts[i].dot(texts[j]).abs())
    loss = proda_bound(clip64, weights, images, targets) + 0.1 * torch.stack(overlaps).mean()
    (gradient,) = torch.autograd.grad(loss, start)
    expected = (start - 0.1 * (gradient + 5e-4 * start)).detach()
    assert (found - start).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "words", ["a photo of a", "", "a", "dog " * 17 + "tree", "a type of pet, a photo of a"]
)
def test_prograd_starts_with_one_vector_per_word_and_keeps_other_tokens(
    clip64: Backbone, data64: FewShotData, words: str
) -> None:
    """The context ends with the vectors; the template is that of the task or of the settings."""
    template = f"{words} {{}}."
    count = len(words.split())
    tokens = embed(clip64, words)
    own = replace(data64.labels, templates=(template,))
    for method, labels in (
        (make("prograd"), own),
        (make("prograd", teacher=template), data64.labels),
    ):
        module = method.init(clip64, replace(data64, labels=labels), torch.Generator())
        expected = torch.cat([torch.zeros(16, 32).double(), tokens[:count]])[-16:]
        assert torch.equal(module["context"], expected)
        texts = encode_contexts(clip64, labels.names, torch.cat([expected, tokens[count:]]))
        close(method.attach(module, clip64, labels).weights, unit(texts))


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return Σ_i KL(p_i ‖ q_i) of rows of probabilities."""
    return (p * (p.log() - q.log())).sum()


def test_kdpl_step_follows_the_divergences_from_its_teacher(
    float64: None, clip64: Backbone, data64: FewShotData, make_data: MakeData
) -> None:
    labels = data64.labels
    model = wrap(tiny_clip(seed=5, embed_dim=24).double(), "teacher")
    teacher = Teacher(model, make_data(model, labels))
    recipe = {"warmup_epochs": 0, "lr": 0.1, "batch_size": 32}
    context = embed(clip64, "a photo of a").clone().requires_grad_()
    texts = encode_contexts(clip64, labels.names, context)
    images = data64.train.views[0]
    q = cosine_logits(clip64, texts, images).softmax(1)
    cosines = unit(teacher.data.train.views[0]) @ unit_texts(model, labels).T
    p = (scale_of(clip64) * cosines).softmax(1)
    loss = (divergence(p, q) + divergence(q, p)) / 2 / len(images)
    [gradient] = torch.autograd.grad(loss, [context])
    for targets in (data64.train.targets, torch.zeros_like(data64.train.targets)):
        given = replace(data64, train=replace(data64.train, targets=targets), teacher=teacher)
        found = make("kdpl", recipe=recipe, max_steps=1).fit(clip64, given, seeded(3))["context"]
        close(found, descend("context", context, gradient).detach())
