"""Modules written for another backbone: the logits of the transfer, without it."""

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
from compatbench.errors import NotTransferable
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
    tested, tensor = MethodUnderTest(builtin_methods().get(name)), TURNED[name]
    source, target, module = tested.source, tested.target, tested.module
    r = fit_rotation(encode_words(source, WORDS), encode_words(target, WORDS)).rotation
    inputs, method = tested.inputs(target), tested.build()
    found = turn_module(method, module, target, LABELS, r, inputs)
    own = module[tensor].double()
    naive = r.T @ own @ r if name == "lfa" else own @ r
    assert torch.allclose(found[tensor].double(), naive, atol=1e-6)
    others = {key for key in module.tensors if key != tensor}
    assert all(torch.equal(found[key], module[key]) for key in others)
    wanted = attach_rotated(method, module, target, LABELS, r)(inputs)
    assert torch.allclose(method.attach(found, target, LABELS)(inputs), wanted, atol=1e-3)


def test_what_no_turn_expresses_is_refused() -> None:
    """A ReLU in the joint space, chosen channels of it, a residual's norm in a wider one."""
    models = synthetic_models()
    for name, target in (
        ("clip_adapter", models.target),
        ("ape_t", models.target),
        ("taskres", models.others["joint space"]),
    ):
        tested = MethodUnderTest(builtin_methods().get(name))
        r = fit_rotation(encode_words(tested.source, WORDS), encode_words(target, WORDS)).rotation
        given = (tested.module, target, LABELS, r, tested.inputs(target))
        with pytest.raises(NotTransferable, match="no rotation of its tensors gives the same"):
            turn_module(tested.build(), *given)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module of prototypes in the joint space, fitted on a mini model."""
    path = tmp_path_factory.mktemp("port") / "old.safetensors"
    cb.fit("simpleshot", "mini-weather", "mini-clip", shots=4).save(path)
    return path


@pytest.mark.slow
def test_a_ported_module_is_evaluated_without_a_transfer_as_with_it(
    saved: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new.safetensors"
    asked = ("module port", saved, "--target", EVA, "--out", new)
    assert "with words" in output_of(*asked)
    ported, moved = cb.evaluate(new, EVA), cb.evaluate(saved, EVA, transfer="words")
    classes = [each.target.predictions.classes for each in (ported, moved) if each.target]
    assert torch.equal(*classes)
    assert ported.fitted.source == EVA
    assert ported.as_dict()["ported"]["from"] == "mini-clip"
    copied = cb.port(saved, EVA, transfer="copied")
    assert copied.fingerprint == load_module(saved).fingerprint
    assert copied.fingerprint != load_module(new).fingerprint
    with pytest.raises(cb.CompatbenchError, match="exists; give another --out"):
        output_of(*asked)


@pytest.mark.slow
def test_a_ported_module_is_used_without_compatbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines on the page for owners, with a mini model in place of open_clip's own."""
    page = (Path(__file__).parents[2] / "docs" / "my-upgrade.md").read_text(encoding="utf-8")
    _, block = page.split("```py\n")
    lines = block.split("```")[0]
    assert len(lines.splitlines()) < 16
    monkeypatch.chdir(tmp_path)
    backbone = load_backbone(EVA)
    module = cb.port(cb.fit("tip_adapter", "mini-weather", "mini-clip", shots=2), EVA)
    module.save("photos-for-eva02.safetensors")
    made = (backbone.model, None, None)
    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda *_: made)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda _: backbone.tokenizer)
    images = torch.randn(3, 3, *backbone.preprocess_settings["size"])
    found: dict[str, Any] = {}
    with torch.no_grad():
        exec(lines, found)
        method = builtin_methods().get("tip_adapter")()
        attached = method.attach(module, backbone, load_task("mini-weather").labels)
        wanted = attached(backbone.encode_images(images))
        torch.testing.assert_close(found["logits"](images), wanted, rtol=1e-4, atol=1e-4)


def test_prompts_stay_as_they_are_and_what_cannot_be_written_is_refused(saved: Path) -> None:
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
