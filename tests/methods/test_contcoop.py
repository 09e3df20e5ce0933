"""ContCoOp: the context of a class is an attention of prompts over prompts and name tokens."""

from __future__ import annotations

import math

import pytest
import torch
from formulas import check_first_step, cosine_logits, cross_entropy, mean_cosine
from open_clip_reference import encode_contexts, encode_texts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import CompatbenchError
from compatbench.method import FewShotData, Module
from compatbench.method.trained import Batch
from compatbench.methods.contcoop import ContCoOp
from compatbench.methods.coop import CoOp


def random_module(length: int = 4, dtype: torch.dtype = torch.float64) -> Module:
    generator = torch.Generator().manual_seed(1)
    shapes = {"prompts": (length, 32), "query": (32, 32), "key": (32, 32), "value": (32, 32)}
    return Module(
        {
            name: 0.3 * torch.randn(shape, generator=generator, dtype=dtype)
            for name, shape in shapes.items()
        }
    )


def contexts_of_a_setting(
    backbone: Backbone,
    labels: Labels,
    parameters: dict[str, Tensor],
    heads: int = 1,
    attention: str = "self",
    output_projection: bool = False,
    residual: bool = False,
) -> Tensor:
    """Head by head and class by class."""
    tower = getattr(backbone.model, "text", backbone.model)
    prompts, width = parameters["prompts"], 32 // heads
    contexts = []
    for name in labels.names:
        words = tower.token_embedding.weight[backbone.tokenizer.encode(name)]  # type: ignore[index, union-attr]
        seen = {"self": torch.cat([prompts, words]), "cross": words, "prompts": prompts}[attention]
        parts = []
        for h in range(heads):
            columns = slice(h * width, (h + 1) * width)
            q = prompts @ parameters["query"][:, columns]
            k, v = (seen @ parameters[n][:, columns] for n in ("key", "value"))
            parts.append(torch.softmax(q @ k.T / math.sqrt(width), dim=1) @ v)
        mixed = torch.cat(parts, dim=1)
        if output_projection:
            mixed = mixed @ parameters["output"]
        contexts.append(mixed + prompts if residual else mixed)
    return torch.stack(contexts)


def naive_texts(backbone: Backbone, labels: Labels, module: Module) -> Tensor:
    """U = [p; E(name)]; the first N rows of softmax(U W_q (U W_k)ᵀ / √D) U W_v as context."""
    contexts = contexts_of_a_setting(backbone, labels, module.trained)
    return encode_contexts(backbone, labels.names, contexts)


def naive_loss(
    backbone: Backbone, labels: Labels, module: Module, images: Tensor, targets: Tensor
) -> Tensor:
    texts = naive_texts(backbone, labels, module)
    entropy = cross_entropy(cosine_logits(backbone, texts, images), targets)
    teacher = [f"a photo of a {name}, a type of thing." for name in labels.names]
    return entropy + 8.0 * (1 - mean_cosine(texts, encode_texts(backbone, teacher)))


@pytest.mark.parametrize("length", [1, 4, 8])
def test_logits_equal_the_formula(
    backbone64: Backbone, labels: Labels, images64: Tensor, length: int
) -> None:
    module = random_module(length)
    logits = ContCoOp().attach(module, backbone64, labels)(images64)
    expected = cosine_logits(backbone64, naive_texts(backbone64, labels, module), images64)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_a_class_s_context_does_not_depend_on_longer_names_beside_it(clip64: Backbone) -> None:
    module = random_module()
    beside = Labels(("dog", "hippopotamus"), ("{}",), "{}")
    alone = Labels(("dog",), ("{}",), "{}")
    torch.testing.assert_close(
        ContCoOp().mix(module, *clip64.name_tokens(beside))[0],
        ContCoOp().mix(module, *clip64.name_tokens(alone))[0],
        rtol=1e-12,
        atol=1e-12,
    )


def test_the_context_follows_the_target_s_name_embeddings(
    clip64: Backbone, eva64: Backbone, labels: Labels
) -> None:
    module = random_module()
    source = ContCoOp().mix(module, *clip64.name_tokens(labels))
    target = ContCoOp().mix(module, *eva64.name_tokens(labels))
    torch.testing.assert_close(target, contexts_of_a_setting(eva64, labels, module.trained))
    assert (source - target).abs().max() > 0.01


def test_the_loss_equals_the_formula(
    float64: None, backbone64: Backbone, data64: FewShotData
) -> None:
    module, features = random_module(), data64.train.plain
    method = ContCoOp()
    classifier = method.attach(module, backbone64, data64.labels)
    batch = Batch(features, data64.train.targets, backbone64, data64.labels)
    expected = naive_loss(backbone64, data64.labels, module, features, batch.targets)
    torch.testing.assert_close(method.loss(classifier, batch), expected, rtol=1e-9, atol=1e-9)


def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return naive_loss(clip64, data64.labels, Module(parameters), images, targets)

    check_first_step(ContCoOp, clip64, data64, loss)


def test_with_the_identity_for_attention_it_is_coop(
    clip64: Backbone, labels: Labels, images64: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(self: ContCoOp, module: Module, names: Tensor, lengths: object) -> Tensor:
        return module["prompts"].expand(len(names), -1, -1)

    monkeypatch.setattr(ContCoOp, "mix", identity)
    module = random_module()
    logits = ContCoOp().attach(module, clip64, labels)(images64)
    coop = CoOp().attach(Module({"context": module["prompts"]}), clip64, labels)(images64)
    torch.testing.assert_close(logits, coop, rtol=1e-10, atol=1e-10)


def test_initialisation_is_kaiming_for_the_attention(
    b16_sized: Backbone, data: FewShotData
) -> None:
    module = ContCoOp().init(b16_sized, data, torch.Generator().manual_seed(0))
    assert module["prompts"].shape == (4, 512)
    assert module["prompts"].std() == pytest.approx(0.02, rel=0.05)
    for name in ("query", "key", "value"):
        assert module[name].shape == (512, 512)
        assert module[name].std() == pytest.approx(math.sqrt(2 / 512), rel=0.01)
    assert not torch.equal(module["query"], module["key"])


SETTINGS = {
    "heads": dict(heads=4),
    "cross-attention": dict(attention="cross"),
    "prompts-alone": dict(attention="prompts", heads=2),
    "output projection": dict(output_projection=True),
    "residual": dict(residual=True),
    "all": dict(heads=2, attention="cross", output_projection=True, residual=True),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_context_of_a_setting_and_its_gradient_equal_the_formula(
    clip64: Backbone, labels: Labels, setting: dict[str, object]
) -> None:
    method = ContCoOp(ContCoOp.Config.model_validate(setting))
    module = random_module()
    if "output_projection" in setting:
        generator = torch.Generator().manual_seed(2)
        module.trained["output"] = 0.3 * torch.randn(32, 32, generator=generator).double()
    parameters = {name: t.requires_grad_() for name, t in module.trained.items()}
    found = method.mix(module, *clip64.name_tokens(labels))
    expected = contexts_of_a_setting(clip64, labels, parameters, **setting)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    tensors = list(parameters.values())
    gradients = [torch.autograd.grad(context.sin().sum(), tensors) for context in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)
    default = ContCoOp().mix(module, *clip64.name_tokens(labels))
    assert (found - default).abs().max() > 0.01


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_fit_with_a_setting_is_attached_with_it(
    clip: Backbone, eva: Backbone, data: FewShotData, images64: Tensor, setting: dict[str, object]
) -> None:
    method = ContCoOp(ContCoOp.Config.model_validate({**setting, "max_steps": 2}))
    module = method.fit(clip, data, torch.Generator().manual_seed(0))
    assert ("output" in module.trained) == ("output_projection" in setting)
    logits = method.attach(module, eva, data.labels)(images64.float())
    context = contexts_of_a_setting(eva, data.labels, module.trained, **setting)  # type: ignore[arg-type]
    coop = CoOp(CoOp.Config(context_length=4, class_specific=True))
    expected = coop.attach(Module({"context": context}), eva, data.labels)(images64.float())
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "scale"), [("xavier", 512**-0.5), ("normal", 0.02)])
def test_other_initialisations(
    b16_sized: Backbone, data: FewShotData, name: str, scale: float
) -> None:
    config = ContCoOp.Config.model_validate({"initialisation": name, "output_projection": True})
    module = ContCoOp(config).init(b16_sized, data, torch.Generator().manual_seed(0))
    assert module.parameters == 788_480 + 262_144
    for matrix in ("query", "key", "value", "output"):
        assert module[matrix].std() == pytest.approx(scale, rel=0.01)


def test_heads_that_do_not_divide_the_width_are_refused(clip: Backbone, data: FewShotData) -> None:
    method = ContCoOp(ContCoOp.Config(heads=5))
    with pytest.raises(CompatbenchError, match="5 heads do not divide a width of 32"):
        method.init(clip, data, torch.Generator())
