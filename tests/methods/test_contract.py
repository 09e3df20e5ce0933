"""What every method must keep, whoever wrote it: the conformance kit, and that fits fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import MakeData

from compatbench.backbone import Backbone, Labels
from compatbench.conformance import run_checks
from compatbench.conformance.method_under_test import MethodUnderTest
from compatbench.conformance.models import build_clip
from compatbench.method import CosineClassifier, FewShotData, Method, Module
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import Batch, TrainedMethod

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
@pytest.mark.parametrize("name", ALL)
def test_a_method_keeps_the_rules(name: str) -> None:
    """The conformance kit; what it skips, the card excuses or the method has no use for."""
    outcomes = run_checks(builtin_methods().get(name))
    assert [o for o in outcomes if o.status not in ("pass", "skip")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_module_has_as_many_parameters_before_its_first_step_as_after_its_last(
    name: str,
) -> None:
    """The capability table counts those of the first."""
    subject = MethodUnderTest(builtin_methods().get(name))
    method = subject.build()
    if not isinstance(method, TrainedMethod):
        pytest.skip("it has no first step")
    start = method.init(subject.source, subject.draw(), torch.Generator().manual_seed(1))
    assert start.parameters == subject.module.parameters


# Of five classes on a CLIP with the widths and depths of ViT-B/16.
PARAMETERS = {
    "bitfit": 12 * 11 * 512 + 512,
    "clip_adapter": 131_072,
    "clip_lora": 184_320,
    "cocoop": 35_360,
    "contcoop": 788_480,
    "coop": 8192,
    "coprompt": 3_555_072 + 2 * 131_072,
    "ivlp": 12 * 2 * (512 + 768),
    "kgcoop": 2048,
    "maple": 3_555_072,
    "plot": 4 * 16 * 512,
    "proda": 32 * 16 * 512,
    "prograd": 8192,
    "promptsrc": 46_080,
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


def build(name: str) -> Method:
    return MethodUnderTest(builtin_methods().get(name)).build()


def trained_methods() -> list[str]:
    return [name for name in NAMES if issubclass(builtin_methods().get(name), TrainedMethod)]


@pytest.mark.slow
@pytest.mark.parametrize("name", trained_methods())
def test_training_lowers_the_loss(name: str, clip: Backbone, data: FewShotData) -> None:
    """A sign error or a label out of place would show here at once."""
    cls = builtin_methods().get(name)
    recipe = cls.Config().recipe  # type: ignore[attr-defined]
    brisk = recipe.model_copy(update={"warmup_epochs": 0, "epochs": 40})
    method = cls(cls.Config.model_validate({"recipe": brisk}))
    assert isinstance(method, TrainedMethod)
    batch = Batch(data.train.views.mean(0), data.train.targets, clip, data.labels)

    def loss(module: Module) -> float:
        return float(method.loss(method.attach(module, clip, data.labels), batch))

    with torch.no_grad():
        before = loss(method.init(clip, data, torch.Generator().manual_seed(1)))
        untouched = loss(method.init(clip, data, torch.Generator().manual_seed(1)))
    module = method.fit(clip, data, torch.Generator().manual_seed(1))
    assert untouched == before
    assert loss(module) < before - 0.001


@pytest.mark.parametrize("name", sorted({*NAMES} - {*trained_methods(), "zeroshot"}))
def test_a_closed_form_makes_its_own_shots_likelier(
    name: str, clip: Backbone, data: FewShotData
) -> None:
    module = build(name).fit(clip, data, torch.Generator())
    features, targets = data.train.plain, data.train.targets
    logits = build(name).attach(module, clip, data.labels)(features)
    zero_shot = CosineClassifier(clip.zero_shot(data.labels), clip.logit_scale)(features)
    assert F.cross_entropy(logits, targets) < F.cross_entropy(zero_shot, targets) - 0.01
