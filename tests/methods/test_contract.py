"""What every method must keep, whoever wrote it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.files import sha256_bytes
from compatbench.method import CosineClassifier, FewShotData, Method, Module
from compatbench.method.module import load_module
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import Batch, TrainedMethod

# What acts inside the image tower takes other inputs, and towers of equal width, which the
# tiny pair's are not; `compatbench check` tries it on such a pair.
NAMES = [
    name
    for name in builtin_methods().names()
    if "image-layers" not in builtin_methods().get(name).card.places
]


def build(name: str) -> Method:
    """The method with its published settings, but few optimiser steps."""
    cls = builtin_methods().get(name)
    caps = {"max_steps": 3, "max_iterations": 20}
    short = {name: cap for name, cap in caps.items() if name in cls.Config.model_fields}
    return cls(cls.Config.model_validate(short))


def fit(name: str, backbone: Backbone, data: FewShotData, seed: int = 1) -> Module:
    return build(name).fit(backbone, data, torch.Generator().manual_seed(seed))


def weights_of(backbone: Backbone) -> str:
    """The bits of all parameters and buffers, the causal mask included."""
    tensors = [*backbone.model.named_parameters(), *backbone.model.named_buffers()]
    return sha256_bytes(*(name.encode() + t.numpy().tobytes() for name, t in tensors))


@pytest.fixture(scope="module")
def modules(clip: Backbone, data: FewShotData) -> dict[str, Module]:
    """A fitted module of every method."""
    return {name: fit(name, clip, data) for name in NAMES}


every_method = pytest.mark.parametrize("name", NAMES)


def test_all_methods_load() -> None:
    assert builtin_methods().broken == {}
    assert {
        "zeroshot",
        "coop",
        "kgcoop",
        "contcoop",
        "clip_adapter",
        "taskres",
        "tip_adapter",
        "tip_adapter_f",
        "linear_probe",
    } <= set(NAMES)


@every_method
def test_the_card_says_what_the_method_is(name: str) -> None:
    card = builtin_methods().get(name).card
    assert card.name == name
    assert card.title
    assert card.paper
    assert card.summary
    assert (card.depth == "none") == (not card.learns)


@every_method
def test_the_same_seed_fits_the_same_module(
    name: str, clip: Backbone, data: FewShotData, modules: dict[str, Module]
) -> None:
    assert fit(name, clip, data).fingerprint == modules[name].fingerprint


@every_method
def test_a_fit_draws_from_the_generator_alone(
    name: str, clip: Backbone, data: FewShotData, modules: dict[str, Module]
) -> None:
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    assert fit(name, clip, data).fingerprint == modules[name].fingerprint


@every_method
def test_global_random_state_is_untouched(name: str, clip: Backbone, data: FewShotData) -> None:
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    fit(name, clip, data)
    assert before == (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())


@every_method
def test_fit_and_attach_leave_the_backbone_as_it_was(
    name: str, clip: Backbone, eva: Backbone, data: FewShotData, images: Tensor
) -> None:
    before = weights_of(clip), weights_of(eva)
    module = fit(name, clip, data)
    build(name).attach(module, clip, data.labels)(images)
    build(name).attach(module, eva, data.labels)(images)
    assert (weights_of(clip), weights_of(eva)) == before
    assert not any(p.requires_grad or p.grad is not None for p in clip.model.parameters())


@every_method
def test_a_fit_leaves_its_data_as_they_were(name: str, clip: Backbone, data: FewShotData) -> None:
    def bits() -> list[bytes]:
        sets = data.train, data.val
        return [t.numpy().tobytes() for s in sets for t in (s.plain, s.views, s.targets)]

    before = bits()
    fit(name, clip, data)
    assert bits() == before


@every_method
def test_attaching_and_classifying_leave_the_module_as_it_was(
    name: str, clip: Backbone, eva: Backbone, labels: Labels, images: Tensor, modules: dict
) -> None:
    module = modules[name]
    before = module.fingerprint
    for backbone in (eva, clip):
        build(name).attach(module, backbone, labels)(images)
    assert module.fingerprint == before
    assert not any(tensor.requires_grad for tensor in module.tensors.values())


@every_method
def test_features_are_left_as_they_were(
    name: str, clip: Backbone, labels: Labels, images: Tensor, modules: dict
) -> None:
    features = images.clone()
    build(name).attach(modules[name], clip, labels)(features)
    assert torch.equal(features, images)


@every_method
def test_a_module_survives_its_file(
    name: str, eva: Backbone, labels: Labels, images: Tensor, modules: dict, tmp_path: Path
) -> None:
    module = modules[name].detach()
    module.save(tmp_path / "one", {"method": name})
    module.save(tmp_path / "two", {"method": name})
    loaded, about = load_module(tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert loaded.fingerprint == module.fingerprint
    assert (loaded.parameters, loaded.trained.keys()) == (module.parameters, module.trained.keys())
    assert about == {"method": name}
    before = build(name).attach(module, eva, labels)(images)
    assert torch.equal(build(name).attach(loaded, eva, labels)(images), before)


@every_method
def test_another_instance_attaches_the_same_classifier(
    name: str, clip: Backbone, data: FewShotData, images: Tensor
) -> None:
    """All that attach needs is in the module and the settings, not in the fitted instance."""
    method = build(name)
    module = method.fit(clip, data, torch.Generator().manual_seed(1))
    own = method.attach(module, clip, data.labels)(images)
    assert torch.equal(build(name).attach(module, clip, data.labels)(images), own)


@every_method
@pytest.mark.parametrize("target", ["clip", "eva"])
def test_logits_have_a_row_per_image_and_a_column_per_class(
    name: str,
    target: str,
    labels: Labels,
    images: Tensor,
    modules: dict,
    request: pytest.FixtureRequest,
) -> None:
    backbone = request.getfixturevalue(target)
    logits = build(name).attach(modules[name], backbone, labels)(images)
    assert logits.shape == (7, 5)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert logits.std(1).min() > 0


@every_method
def test_an_image_s_logits_do_not_depend_on_its_batch(
    name: str, eva: Backbone, labels: Labels, images: Tensor, modules: dict
) -> None:
    classify = build(name).attach(modules[name], eva, labels)
    together = classify(images)
    alone = torch.cat([classify(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    assert classify(images[:0]).shape == (0, 5)


@every_method
def test_logits_follow_the_classes_when_these_are_permuted(
    name: str, eva: Backbone, labels: Labels, images: Tensor, modules: dict
) -> None:
    per_class = [n for n, t in modules[name].tensors.items() if 5 in t.shape]
    if per_class:
        pytest.skip(f"the module holds a row or column per class: {', '.join(per_class)}")
    order = [3, 0, 4, 1, 2]
    permuted = Labels(
        tuple(labels.names[c] for c in order), labels.templates, labels.teacher_template
    )
    logits = build(name).attach(modules[name], eva, labels)(images)
    found = build(name).attach(modules[name], eva, permuted)(images)
    torch.testing.assert_close(found, logits[:, order], rtol=1e-4, atol=1e-4)


@every_method
@pytest.mark.parametrize("target", ["wider_text", "wider_joint", "stranger"])
def test_a_target_of_other_sizes_is_served_or_refused_with_a_reason(
    name: str, target: str, labels: Labels, modules: dict, request: pytest.FixtureRequest
) -> None:
    backbone: Backbone = request.getfixturevalue(target)
    card, module = builtin_methods().get(name).card, modules[name]
    needs = {
        "text-input": backbone.token_width == 32,
        "feature": backbone.embed_dim == 16,
        "classifier": backbone.embed_dim == 16,
        "none": True,
    }
    if all(needs[place] for place in card.places):
        features = torch.randn(3, backbone.embed_dim)
        logits = build(name).attach(module, backbone, labels)(features)
        assert logits.shape == (3, 5)
        assert torch.isfinite(logits).all()
    else:
        with pytest.raises(NotTransferable, match=r"\d+, not \d+") as refusal:
            build(name).attach(module, backbone, labels)
        assert str(refusal.value) == refusal.value.reason


@every_method
def test_other_classes_are_served_or_refused_with_a_reason(
    name: str, eva: Backbone, images: Tensor, modules: dict
) -> None:
    other = Labels(("boat", "fire engine", "cat"), ("a {}",), "a {}")
    if any(5 in tensor.shape for tensor in modules[name].tensors.values()):
        with pytest.raises(NotTransferable, match="number of classes of 5, not 3"):
            build(name).attach(modules[name], eva, other)
    else:
        assert build(name).attach(modules[name], eva, other)(images).shape == (7, 3)


@every_method
@pytest.mark.parametrize("shots", [[3, 1, 3, 3, 3], [1, 1, 1, 1, 1], [3, 0, 2, 3, 1]])
def test_classes_with_fewer_images_than_shots_are_served(
    name: str,
    clip: Backbone,
    labels: Labels,
    make_data: MakeData,
    images: Tensor,
    shots: list[int],
) -> None:
    module = fit(name, clip, make_data(clip, labels, shots=shots))
    logits = build(name).attach(module, clip, labels)(images)
    assert logits.shape == (7, 5)
    assert torch.isfinite(logits).all()


@every_method
def test_a_fit_without_validation_images_is_served(
    name: str, clip: Backbone, labels: Labels, make_data: MakeData, images: Tensor
) -> None:
    module = fit(name, clip, make_data(clip, labels, val=0))
    assert torch.isfinite(build(name).attach(module, clip, labels)(images)).all()


@every_method
def test_more_images_than_a_batch_are_served(
    name: str, clip: Backbone, labels: Labels, make_data: MakeData, images: Tensor
) -> None:
    module = fit(name, clip, make_data(clip, labels, shots=30))
    assert torch.isfinite(build(name).attach(module, clip, labels)(images)).all()


@every_method
def test_two_classes_are_served(
    name: str, clip: Backbone, make_data: MakeData, images: Tensor
) -> None:
    labels = Labels(("dog", "red apple"), ("a photo of a {}.",), "a {}")
    module = fit(name, clip, make_data(clip, labels))
    logits = build(name).attach(module, clip, labels)(images)
    assert logits.shape == (7, 2)
    assert torch.isfinite(logits).all()


@every_method
def test_settings_are_immutable_and_unknown_ones_refused(name: str) -> None:
    config_class = builtin_methods().get(name).Config
    with pytest.raises(ValueError, match="extra"):
        config_class.model_validate({"no_such_setting": 1})
    round_trip = config_class.model_validate(config_class().model_dump(mode="json"))
    assert round_trip == config_class()


def trained_methods() -> list[str]:
    return [name for name in NAMES if issubclass(builtin_methods().get(name), TrainedMethod)]


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
