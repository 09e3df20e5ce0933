"""Rules for all methods that the conformance kit does not check."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from formulas import make, seeded
from tiny_models import MakeData, tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.extras.check.method_under_test import relabel
from compatbench.method import FewShotData, Module
from compatbench.method.registry import builtin_methods

# The files beside this one that compare methods with their formulas.
FORMULAS = (
    "caches",
    "contexts",
    "heads",
    "probes",
    "text_methods",
    "towers",
    "transport",
    "weight_space",
)


def test_all_methods_load() -> None:
    assert builtin_methods().broken == {}


def test_a_file_with_formulas_names_every_method() -> None:
    here = Path(__file__).parent
    files = [*here.glob("formulas/*.py"), *(here / f"test_{name}.py" for name in FORMULAS)]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [name for name in builtin_methods().names() if f'"{name}"' not in text] == []


# Tensors drawn before the first step: the method, the tensor, settings, and the number of inputs
# of a linear layer of PyTorch's, or the standard deviation of a normal.
DRAWN: list[tuple[str, str, Mapping[str, object], int | float]] = [
    ("atprompt", "context", {"context_length": 16}, 0.02),
    ("atprompt", "attribute_context", {"attribute_length": 16}, 0.01),
    ("clip_adapter", "down", {}, 512),
    ("clip_adapter", "up", {}, 128),
    ("cocoop", "down", {}, 512),
    ("cocoop", "down_bias", {}, 512),
    ("cocoop", "up", {}, 32),
    ("cocoop", "up_bias", {}, 32),
    ("coop", "context", {}, 0.02),
    ("coop", "context", {"class_specific": True}, 0.02),
    ("contcoop", "prompts", {"context_words": None}, 0.02),
    ("contcoop", "query", {}, (2 / 512) ** 0.5),
    ("contcoop", "key", {}, (2 / 512) ** 0.5),
    ("contcoop", "value", {}, (2 / 512) ** 0.5),
    ("contcoop", "output", {"initialisation": "xavier", "output_projection": True}, 512**-0.5),
    ("contcoop", "query", {"initialisation": "normal"}, 0.02),
    ("contcoop", "value", {"initialisation": "linear"}, 512),
    ("contcoop", "value_bias", {"biases": True}, 512),
    ("contcoop", "projection", {"class_embedding": "feature", "initialisation": "linear"}, 512),
    ("dept", "head", {}, 512),
    ("dept", "head_bias", {}, 512),
    ("graph_adapter", "text_weight", {}, 512),
    ("graph_adapter", "image_weight", {}, 512),
    ("lp_plus_plus", "bias", {}, 512),
    ("maple", "coupling_weight", {}, 512),
    ("maple", "coupling_bias", {}, 512),
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
def test_initial_tensors_have_the_published_spread(
    b16_sized: Backbone,
    make_data: MakeData,
    name: str,
    tensor: str,
    settings: Mapping[str, object],
    size: int | float,
) -> None:
    labels = Labels(tuple(f"thing {i}" for i in range(200)), ("{}",), "{}")
    data = make_data(b16_sized, labels, shots=1)
    drawn: Tensor = make(name, **settings).init(b16_sized, data, seeded(0))[tensor]
    if isinstance(size, int):  # uniform
        bound = size**-0.5
        spread = bound / 3**0.5
    else:
        bound = 6.0 * size
        spread = size
    assert drawn.abs().max() <= bound
    assert len(drawn.unique()) > 0.9 * drawn.numel()  # each number is drawn separately
    assert drawn.std() == pytest.approx(spread, rel=3 / drawn.numel() ** 0.5)
    assert abs(drawn.mean()) < 4 * spread / drawn.numel() ** 0.5


def steps(first: float, end: float, count: int) -> list[float]:
    return [first + i * (end - first) / count for i in range(count)]


# Settings of a search, and the values that it tries: the outermost loop first, as the authors.
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
def test_search_chooses_the_first_best_values_on_validation_images(
    eva64: Backbone, labels: Labels, make_data: MakeData, name: str, seed: int
) -> None:
    settings, tried = SEARCHES[name]
    method = make(name, **settings)
    data = make_data(eva64, labels, val=4, seed=seed)
    module = method.fit(eva64, data, torch.Generator())
    scores = {}
    for values in itertools.product(*tried.values()):
        weights = {}
        for weight, value in zip(tried, values, strict=True):
            weights[weight] = torch.tensor(value).double()
        changed = Module(module.trained, module.stored | weights)
        logits = method.attach(changed, eva64, labels)(data.val.plain)
        scores[values] = int((logits.argmax(-1) == data.val.targets).sum())
    assert len(set(scores.values())) > 1  # or any choice would do
    # The first of equal scores: a dictionary keeps its order.
    best = max(scores, key=lambda values: scores[values])
    assert [float(module[weight]) for weight in tried] == pytest.approx(best)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("tip_adapter", {"alpha": 1.17, "beta": 1.0}),
        ("ape", {"alpha": 2.0, "beta": 1.0, "gamma": 0.1}),
        ("ape_t", {"alpha": 2.0, "beta": 1.0}),
        ("gda", {"alpha": 0.1}),
        ("timo", {"alpha": 100.0}),
        ("lfa", {"beta": 0.5}),
        ("proker", {"beta": 1.7, "penalty": 0.1}),
        ("cross_modal", {"lr": 1e-3, "weight_decay": 0, "batch_size": 8, "steps": 3}),
    ],
)
def test_without_validation_images_the_published_settings_are_used(
    clip: Backbone, labels: Labels, make_data: MakeData, name: str, weights: dict[str, float]
) -> None:
    caps = {"max_steps": 3} if name in ("ape_t", "cross_modal") else {}
    module = make(name, **caps).fit(clip, make_data(clip, labels, val=0), torch.Generator())
    found = {weight: float(module.stored[weight]) for weight in weights}
    assert found == pytest.approx(weights)


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("contcoop", {"heads": 5}, "5 heads do not divide a width of 32"),
        ("coop", {"context_length": 4, "context_words": "a photo"}, "'a photo' are 2 tokens, .* 4"),
        ("ivlp", {"text_length": 5}, "'a photo of a' are 4 tokens, too few.* of 5"),
        ("plot_pp", {"phrases": ("a photo of a", "this is a")}, "'this is a' is 3 tokens, fewer"),
        # Settings that have no meaning for the method.
        ("cocoop", {"position": "middle"}, "position"),
        ("cocoop", {"class_specific": True}, "class_specific"),
        ("atprompt", {"attributes": ()}, "attributes"),
        ("atprompt", {"attributes": (" ",)}, "attributes"),
        ("mma", {"template": "a photo of a thing."}, r"thing.' must contain \{\} once, for the"),
        ("tcp", {"template": "person doing"}, "'person doing' must contain"),
        ("kgcoop", {"teacher": "{} or {}"}, "'{} or {}' must contain"),
    ],
)
def test_settings_unfit_for_the_method_or_backbone_are_refused(
    clip: Backbone, data: FewShotData, name: str, settings: dict[str, object], why: str
) -> None:
    with pytest.raises((CompatbenchError, ValueError), match=why):
        make(name, **settings).init(clip, data, torch.Generator())


DEEP = {"image_layers": 3}


class Refusal(NamedTuple):
    """A module, and where it cannot be attached.

    Models are fixtures, or a CLIP with these changes of its text tower.
    """

    name: str
    why: str
    source: Any = "clip"
    target: Any = "clip"
    settings: Mapping[str, object] = {}
    others: Mapping[str, object] | None = None  # settings of the method that attaches it
    classes: int = 5


TEXT = {"encoder": "text"}
BOTH = {"layers": 4, **DEEP}
FOUR_TEXT = "text towers of 4 blocks or more"
THREE_IMAGE = "image towers of 3 blocks or more"
REFUSED = [
    Refusal("ivlp", FOUR_TEXT, {"layers": 4}),
    Refusal("clip_lora", FOUR_TEXT, {"layers": 4}, settings=TEXT),
    Refusal("ivlp", THREE_IMAGE, DEEP),
    Refusal("clip_lora", THREE_IMAGE, DEEP, settings={"encoder": "image"}),
    Refusal("vpt_deep", THREE_IMAGE, DEEP),
    Refusal("mma", "a number of adapted blocks of 2, not 1", BOTH, {"image_layers": 1}),
    Refusal("bitfit", r"has no 'transformer.resblocks.2.*bias'", target={"layers": 2}),
    Refusal("tcp", "a single block", target={"layers": 1}),
    Refusal("mmrl", "a causal text tower", target={"no_causal_mask": True}),
    Refusal("flyp", "tower has no 'transformer.resblocks.2.ln_1.weight'", target={"layers": 2}),
    Refusal("flyp", "'transformer.resblocks.3.ln_1.weight', for which", target={"layers": 4}),
    Refusal("flyp", "'text_projection' of size 32 × 16, not 32 × 24", target={"embed_dim": 24}),
    Refusal("flyp", "a 'class_embedding' of size 32, not 128", target="eva"),
    Refusal("coop", "classes of 5, not 3", settings={"class_specific": True}, classes=3),
    Refusal("atprompt", "attributes of 1, not 2", settings={"attributes": ["size"]}, others={}),
    Refusal("rosetta", "another list of words", others={"word_list": "0" * 64}),
]


@pytest.mark.parametrize("refusal", REFUSED, ids=lambda refusal: refusal.name)
def test_module_is_refused_where_it_cannot_be_attached(
    request: pytest.FixtureRequest, data: FewShotData, refusal: Refusal
) -> None:
    def model_of(model: Any) -> Backbone:
        if isinstance(model, str):
            return request.getfixturevalue(model)
        return wrap(tiny_clip(**model), "x")

    method = make(refusal.name, **refusal.settings)
    module = getattr(method, "init", method.fit)(model_of(refusal.source), data, seeded())
    others = refusal.settings if refusal.others is None else refusal.others
    labels = relabel(data.labels.names[: refusal.classes])
    target = model_of(refusal.target)
    with pytest.raises(NotTransferable, match=refusal.why):
        make(refusal.name, **others).attach(module, target, labels)
