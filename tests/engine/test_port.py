"""Ported modules: they give the logits of a transfer, without the transfer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from command_line import output_of

import compatbench as cb
from compatbench.backbone import load_backbone
from compatbench.backbone.joint_maps import fit_rotation
from compatbench.backbone.words import encode_words, load_words
from compatbench.data.task import load_task
from compatbench.engine.port import turn_module
from compatbench.errors import CompatbenchWarning, NotTransferable
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest
from compatbench.extras.check.models import synthetic_models
from compatbench.method import Module, load_module
from compatbench.method.registry import builtin_methods
from compatbench.method.transfer import attach_rotated

WORDS = load_words()[::20]
EVA = "mini-eva-clip"
TURNED = {"tip_adapter": "keys", "taskres": "residual", "linear_probe": "weight", "lfa": "rotation"}


@pytest.mark.parametrize("name", TURNED)
def test_tensors_are_turned_where_they_lie_in_the_joint_space(name: str) -> None:
    tested = MethodUnderTest(builtin_methods().get(name))
    method = tested.build()
    target = tested.target
    module = tested.module
    inputs = tested.inputs(target)
    r = fit_rotation(encode_words(tested.source, WORDS), encode_words(target, WORDS)).rotation
    found = turn_module(method, module, target, LABELS, r, inputs)
    turned = TURNED[name]
    own = module[turned].double()
    naive = r.T @ own @ r if name == "lfa" else own @ r
    assert torch.allclose(found[turned].double(), naive, atol=1e-6)
    for key in module.tensors:
        assert key == turned or torch.equal(found[key], module[key])
    expected = attach_rotated(method, module, target, LABELS, r)(inputs)
    assert torch.allclose(method.attach(found, target, LABELS)(inputs), expected, atol=1e-3)


def test_a_module_that_no_rotation_reproduces_is_refused() -> None:
    """A ReLU in the joint space, chosen channels of it, a residual's norm in a wider one."""
    models = synthetic_models()
    for name, target in (
        ("clip_adapter", models.target),
        ("ape_t", models.target),
        ("taskres", models.others["joint space"]),
    ):
        tested = MethodUnderTest(builtin_methods().get(name))
        inputs = tested.inputs(target)
        r = fit_rotation(encode_words(tested.source, WORDS), encode_words(target, WORDS)).rotation
        with pytest.raises(NotTransferable, match="no rotation of its tensors gives the same"):
            turn_module(tested.build(), tested.module, target, LABELS, r, inputs)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a module of prototypes in the joint space, fitted on a mini model."""
    path = tmp_path_factory.mktemp("port") / "old.safetensors"
    cb.fit("simpleshot", "mini-weather", "mini-clip", shots=4).save(path)
    return path


@pytest.mark.slow
def test_a_ported_module_is_evaluated_without_a_transfer_as_with_it(
    saved: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new.safetensors"
    command = ("module port", saved, "--target", EVA, "--out", new)
    assert "with words" in output_of(*command)
    ported = cb.evaluate(new, EVA)
    moved = cb.evaluate(saved, EVA, transfer="words")
    assert ported.target is not None
    assert moved.target is not None
    assert torch.equal(ported.target.predictions.classes, moved.target.predictions.classes)
    assert ported.fitted.source == EVA
    assert ported.as_dict()["ported"]["from"] == "mini-clip"
    copied = cb.port(saved, EVA, transfer="copied")
    assert copied.fingerprint == load_module(saved).fingerprint
    assert copied.fingerprint != load_module(new).fingerprint
    with pytest.raises(cb.CompatbenchError, match="exists; give another --out"):
        output_of(*command)


def test_a_module_is_copied_to_a_model_with_the_same_joint_space(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compatbench.engine.port.find_rotation", lambda *_: None)
    ported = cb.port(saved, EVA, transfer="words")
    assert ported.fingerprint == load_module(saved).fingerprint
    assert ported.about["ported"]["transfer"] == "words"


@pytest.mark.slow
def test_a_ported_module_is_used_without_compatbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the lines on the page for owners, with a mini model in place of open_clip's."""
    page = (Path(__file__).parents[2] / "docs" / "my-upgrade.md").read_text(encoding="utf-8")
    _, block = page.split("```py\n")
    lines = block.split("```")[0]
    assert len(lines.splitlines()) < 16
    monkeypatch.chdir(tmp_path)
    backbone = load_backbone(EVA)
    module = cb.port(cb.fit("tip_adapter", "mini-weather", "mini-clip", shots=2), EVA)
    module.save("MODULE-for-eva02-b16.safetensors")
    model = (backbone.model, None, None)
    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda *_: model)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda _: backbone.tokenizer)
    images = torch.randn(3, 3, *backbone.preprocess_settings["size"])
    found: dict[str, Any] = {}
    with torch.no_grad():
        exec(lines, found)
        method = builtin_methods().get("tip_adapter")()
        attached = method.attach(module, backbone, load_task("mini-weather").labels)
        expected = attached(backbone.encode_images(images))
        torch.testing.assert_close(found["logits"](images), expected, rtol=1e-4, atol=1e-4)


def test_prompts_are_copied_and_modules_that_cannot_be_ported_are_refused(saved: Path) -> None:
    about = load_module(saved).about | {"config": {}}

    def port(method: str, **tensors: torch.Tensor) -> Module:
        return cb.port(Module(tensors, about=about | {"method": method}), EVA)

    width = load_backbone(EVA).token_width
    context = torch.randn(16, width)
    prompts = port("coop", context=context)
    assert torch.equal(prompts["context"], context)
    assert prompts.about["ported"]["transfer"] == "copied"
    with pytest.raises(cb.CompatbenchError, match="the module is the same on any model"):
        port("zeroshot")
    with pytest.raises(cb.CompatbenchError, match="cannot be written"):
        port("coop", context=torch.randn(16, width + 1))


def test_a_transfer_that_changes_nothing_is_named_and_the_module_is_copied() -> None:
    module = cb.fit("kgcoop", "mini-food", "mini-clip", shots=1, config={"max_steps": 1})
    message = "words changes nothing for a module of 'kgcoop': it is copied"
    with pytest.warns(CompatbenchWarning, match=message):
        found = cb.evaluate(module, "mini-eva-clip", transfer="words")
    assert found.transfer == "copied"
    with pytest.warns(CompatbenchWarning, match=message):
        ported = cb.port(module, "mini-eva-clip", transfer="words")
    assert ported.about["ported"]["transfer"] == "copied"
