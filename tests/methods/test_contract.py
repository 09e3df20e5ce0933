"""What every method keeps, beside the rules of the conformance kit: that fits fit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.extras.check.models import build_clip
from compatbench.method import CosineClassifier, FewShotData, Method, Module
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod

ALL = builtin_methods().names()

# What takes other inputs than features is left to its own test and to the conformance kit.
NAMES = [n for n in ALL if builtin_methods().get(n).image_input is Method.image_input]


def test_all_methods_load() -> None:
    assert builtin_methods().broken == {}


@pytest.mark.parametrize("name", ALL)
def test_a_method_is_named_as_its_file(name: str) -> None:
    cls = builtin_methods().get(name)
    assert cls.__module__ in (f"compatbench.methods.{name}", "compatbench.methods.zeroshot")


@pytest.mark.slow
def test_a_module_has_as_many_parameters_before_its_first_step(tested: MethodUnderTest) -> None:
    """The table of methods counts them there."""
    if isinstance(method := tested.build(), TrainedMethod):
        start = method.init(tested.source, tested.draw(), torch.Generator().manual_seed(1))
        assert tested.fitted.parameters == start.parameters


# Of five classes on a CLIP with the widths and depths of ViT-B/16.
PARAMETERS = {
    "atprompt": 2 * 2 * 512 + 2 * 512,
    "bitfit": 12 * 11 * 512 + 512,
    "clip_adapter": 131_072,
    "clip_lora": 184_320,
    "cocoop": 35_360,
    "contcoop": 788_480,
    "coop": 8192,
    "coprompt": 3_555_072 + 2 * 131_072,
    "ivlp": 12 * 2 * (512 + 768),
    "kgcoop": 2048,
    "kdpl": 2048,
    "maple": 3_555_072,
    "mma": 674_560,
    "mmrl": 4_992_256,
    "plot": 4 * 16 * 512,
    "plot_pp": 4 * 4 * 512 + 6_144,
    "proda": 32 * 16 * 512,
    "prograd": 8192,
    "promptsrc": 46_080,
    "protext": 18_432,
    "taskres": 5 * 512,
    "tcp": 329_856 + 2048,
    "vpt_deep": 73_728,
    "vpt_shallow": 8 * 768,
}


@pytest.mark.slow
def test_parameters_at_vit_b_16(labels: Labels, make_data: MakeData) -> None:
    widths = dict(token_width=512, embed_dim=512, image_width=768, head_width=64)
    backbone = build_clip("b16-sized", seed=7, **widths)
    data = make_data(backbone, labels)
    found = {}
    for name in PARAMETERS:
        method = builtin_methods().get(name)()
        assert isinstance(method, TrainedMethod)
        found[name] = method.init(backbone, data, torch.Generator()).parameters
    assert found == PARAMETERS


# What is drawn before the first step: a tensor, its settings, and the numbers that a linear layer
# of PyTorch's takes in, or the standard deviation of a normal.
DRAWN: list[tuple[str, str, Mapping[str, object], int | float]] = [
    ("atprompt", "context", {"context_length": 16}, 0.02),
    ("atprompt", "attribute_context", {"attribute_length": 16}, 0.01),
    *[("clip_adapter", name, {}, size) for name, size in (("down", 512), ("up", 128))],
    *[("cocoop", name, {}, 512) for name in ("down", "down_bias")],
    *[("cocoop", name, {}, 32) for name in ("up", "up_bias")],
    ("coop", "context", {}, 0.02),
    ("contcoop", "prompts", {"context_words": None}, 0.02),
    *[("contcoop", name, {}, (2 / 512) ** 0.5) for name in ("query", "key", "value")],
    ("contcoop", "output", {"initialisation": "xavier", "output_projection": True}, 512**-0.5),
    ("contcoop", "query", {"initialisation": "normal"}, 0.02),
    ("contcoop", "value", {"initialisation": "linear"}, 512),
    ("contcoop", "value_bias", {"biases": True}, 512),
    ("contcoop", "projection", {"class_embedding": "feature", "initialisation": "linear"}, 512),
    *[("dept", name, {}, 512) for name in ("head", "head_bias")],
    *[("graph_adapter", f"{kind}_weight", {}, 512) for kind in ("text", "image")],
    ("lp_plus_plus", "bias", {}, 512),
    *[("maple", f"coupling_{name}", {}, 512) for name in ("weight", "bias")],
    ("ivlp", "image_prompts", {}, 0.02),
    ("mmrl", "tokens", {}, 0.02),
    ("mmrl", "projection", {}, 32**-0.5),  # the width of its image tower
    ("plot", "contexts", {}, 0.02),
    ("plot_pp", "image_prompts", {}, 0.02),
    ("proda", "contexts", {}, 0.02),
    ("protext", "prompts", {"context_words": None}, 0.02),
    ("vpt_deep", "image_prompts", {}, 0.02),
]


@pytest.mark.parametrize(("name", "tensor", "settings", "size"), DRAWN)
def test_what_is_drawn_has_the_published_spread(
    b16_sized: Backbone,
    make_data: MakeData,
    name: str,
    tensor: str,
    settings: Mapping[str, object],
    size: int | float,
) -> None:
    labels = Labels(tuple(f"thing {i}" for i in range(200)), ("{}",), "{}")
    cls = builtin_methods().get(name)
    method: Any = cls(cls.Config.model_validate(settings))
    data = make_data(b16_sized, labels, shots=1)
    drawn: Tensor = method.init(b16_sized, data, torch.Generator().manual_seed(0))[tensor]
    bound = size**-0.5 if isinstance(size, int) else 6.0 * size
    spread = bound / 3**0.5 if isinstance(size, int) else size
    assert drawn.abs().max() <= bound
    assert drawn.std() == pytest.approx(spread, rel=3 / drawn.numel() ** 0.5)
    assert abs(drawn.mean()) < 4 * spread / drawn.numel() ** 0.5


def steps(first: float, end: float, count: int) -> list[float]:
    return [first + i * (end - first) / count for i in range(count)]


# Settings of a search, and what it tries: the outermost loop first, as in the authors' code.
SEARCHES: dict[str, tuple[dict[str, object], dict[str, list[float]]]] = {
    "tip_adapter": (
        {"alpha_steps": 6, "beta_steps": 9, "most_alpha": 30.0},
        {"beta": steps(0.1, 7, 9), "alpha": steps(0.1, 30, 6)},
    ),
    "tip_adapter_f": (
        {"alpha_steps": 6, "beta_steps": 9, "most_alpha": 30.0, "max_steps": 3},
        {"beta": steps(0.1, 7, 9), "alpha": steps(0.1, 30, 6)},
    ),
    "ape": (
        {"alpha_steps": 4, "beta_steps": 5, "gamma_steps": 3, "most_alpha": 30, "most_gamma": 1.5},
        {"beta": steps(0.1, 7, 5), "alpha": steps(0.1, 30, 4), "gamma": steps(0, 1.5, 3)},
    ),
    "ape_t": (
        {"alpha_steps": 5, "beta_steps": 6, "most_alpha": 30, "max_steps": 3},
        {"beta": steps(0.1, 7, 6), "alpha": steps(0.1, 30, 5)},
    ),
    "gda": ({}, {"alpha": [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]}),
    "lfa": ({}, {"beta": [i / 20 for i in range(21)]}),
    "timo": ({}, {"alpha": [10.0**i for i in range(-4, 5)]}),
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("seed", [0, 2, 3])
def test_a_search_takes_what_is_first_best_on_the_validation_images(
    eva64: Backbone, labels: Labels, make_data: MakeData, name: str, seed: int
) -> None:
    settings, tried = SEARCHES[name]
    cls = builtin_methods().get(name)
    method = cls(cls.Config.model_validate(settings))
    data = make_data(eva64, labels, val=4, seed=seed)
    module = method.fit(eva64, data, torch.Generator())
    scores = {}
    for values in itertools.product(*tried.values()):
        weights = {n: torch.tensor(v).double() for n, v in zip(tried, values, strict=True)}
        changed = Module(module.trained, module.stored | weights)
        logits = method.attach(changed, eva64, labels)(data.val.plain)
        scores[values] = int((logits.argmax(-1) == data.val.targets).sum())
    assert len(set(scores.values())) > 1  # or any choice would do
    # A dictionary keeps its order.
    best = max(scores, key=lambda values: scores[values])
    assert [float(module[n]) for n in tried] == pytest.approx(best)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("tip_adapter", {"alpha": 1.17, "beta": 1.0}),
        ("ape", {"alpha": 2.0, "beta": 1.0, "gamma": 0.1}),
        ("ape_t", {"alpha": 2.0, "beta": 1.0}),
        ("gda", {"alpha": 0.1}),
        ("timo", {"alpha": 100.0}),
        ("lfa", {"beta": 0.5}),
        ("cross_modal", {"lr": 1e-3, "weight_decay": 0, "batch_size": 8, "steps": 3}),
    ],
)
def test_without_validation_images_the_published_settings_stay(
    clip: Backbone, labels: Labels, make_data: MakeData, name: str, weights: dict[str, float]
) -> None:
    module = build(name).fit(clip, make_data(clip, labels, val=0), torch.Generator())
    assert {n: float(module.stored[n]) for n in weights} == pytest.approx(weights)


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("contcoop", {"heads": 5}, "5 heads do not divide a width of 32"),
        ("coop", {"context_length": 4, "context_words": "a photo"}, "'a photo' are 2 tokens, .* 4"),
        ("ivlp", {"text_length": 5}, "'a photo of a' are 4 tokens, too few.* of 5"),
    ],
)
def test_settings_that_do_not_fit_the_backbone_are_refused(
    clip: Backbone, data: FewShotData, name: str, settings: dict[str, object], why: str
) -> None:
    cls = builtin_methods().get(name)
    method: Any = cls(cls.Config.model_validate(settings))
    with pytest.raises(CompatbenchError, match=why):
        method.init(clip, data, torch.Generator())


# Tensors that are made for three text and two image blocks, with one more.
DEEPER = {
    "text": {
        "ivlp": {"text_prompts": (4, 2, 32), "image_prompts": (2, 2, 32)},
        "clip_lora": {"text_a": (4, 3, 2, 32), "text_b": (4, 3, 32, 2)},
    },
    "image": {
        "ivlp": {"text_prompts": (3, 2, 32), "image_prompts": (3, 2, 32)},
        "clip_lora": {"image_a": (3, 3, 2, 32), "image_b": (3, 3, 32, 2)},
        "vpt_deep": {"image_prompts": (3, 8, 32)},
    },
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in DEEPER.items() for name in names]
)
def test_a_tower_of_fewer_blocks_is_refused(
    clip: Backbone, labels: Labels, kind: str, name: str
) -> None:
    module = Module({n: torch.zeros(shape) for n, shape in DEEPER[kind][name].items()})
    cls = builtin_methods().get(name)
    settings = {"encoder": kind} if name == "clip_lora" else {}
    with pytest.raises(NotTransferable, match=rf"{kind} towers of \d blocks or more"):
        cls(cls.Config.model_validate(settings)).attach(module, clip, labels)


def build(name: str) -> Method:
    return MethodUnderTest(builtin_methods().get(name)).build()


# The first step of a trained method is held against its formula.
CLOSED_FORMS = [n for n in NAMES if not issubclass(builtin_methods().get(n), TrainedMethod)]


@pytest.mark.parametrize("name", [n for n in CLOSED_FORMS if builtin_methods().get(n).card.learns])
def test_a_closed_form_makes_its_own_shots_likelier(
    name: str, clip: Backbone, data: FewShotData
) -> None:
    module = build(name).fit(clip, data, torch.Generator())
    features, targets = data.train.plain, data.train.targets
    logits = build(name).attach(module, clip, data.labels)(features)
    zero_shot = CosineClassifier(clip.zero_shot(data.labels), clip.logit_scale)(features)
    assert F.cross_entropy(logits, targets) < F.cross_entropy(zero_shot, targets) - 0.01
