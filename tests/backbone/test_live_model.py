"""``cb.as_backbone``: models of open_clip and transformers that are in memory."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from loading_models import CONFIGS, make, same_weights
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from test_hugging_face import write_model
from torch import nn

import compatbench as cb
from compatbench.backbone import Backbone, Labels, load_backbone
from compatbench.backbone.hf import FAMILIES
from compatbench.errors import CompatbenchError

LABELS = Labels(("dog", "red apple", "tree"), ("a photo of a {}.",), "a photo of a {}.")
pytestmark = pytest.mark.usefixtures("no_weights_here")


def transform(model: Any, train: bool = False) -> Any:
    return image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=train)


def tokenizer(length: int = 16) -> Any:
    return open_clip.SimpleTokenizer(context_length=length)


def logits(backbone: Backbone, side: int) -> torch.Tensor:
    images = torch.randn(5, 3, side, side, generator=torch.Generator().manual_seed(1))
    return backbone.logit_scale * backbone.encode_images(images) @ backbone.zero_shot(LABELS).T


@pytest.mark.parametrize("name", ["Small/plain", "Small-quickgelu"])
def test_a_model_of_open_clip_computes_what_it_computes_from_its_file(
    name: str, tmp_path: Path
) -> None:
    made = make(name.partition("/")[0])
    model: Any = copy.deepcopy(made).train()
    file = tmp_path / "small.pt"
    torch.save(model.state_dict(), file)
    given = cb.as_backbone(model, transform(model), tokenizer())
    assert repr(given) == f"<Backbone '{given}'>"
    found = load_backbone(given)
    expected = load_backbone(f"{name}@{file}")
    side = model.visual.preprocess_cfg["size"][0]
    torch.testing.assert_close(logits(found, side), logits(expected, side), rtol=0, atol=1e-5)
    assert found.preprocess_settings["mean"] == [*expected.preprocess_settings["mean"]]
    # The model itself stays as it was.
    assert all(part.training for part in model.modules())
    assert same_weights(model, made)


def test_the_name_follows_from_the_weights_and_what_they_are_used_with(tmp_path: Path) -> None:
    model: Any = make("Small")
    name = cb.as_backbone(model, transform(model), tokenizer())
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.*")}
    assert cb.as_backbone(make("Small"), transform(model), tokenizer()) == name
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.*")} == files
    others = [make("Small", seed=2), make("Small-quickgelu")]
    names = {cb.as_backbone(other, transform(other), tokenizer()) for other in others}
    settings = PreprocessCfg(**model.visual.preprocess_cfg | {"mean": (0.5,) * 3})
    names.add(cb.as_backbone(model, image_transform_v2(settings, is_train=False), tokenizer()))
    assert len(names | {name}) == 4
    # The backbone stays as it is when the model is trained further.
    before = logits(load_backbone(name), 32)
    with torch.no_grad():
        model.visual.proj += 1
    assert torch.equal(logits(load_backbone(name), 32), before)
    assert cb.as_backbone(model, transform(model), tokenizer()) != name


def test_another_process_finds_the_model() -> None:
    old = load_backbone("mini-clip")  # open_clip of that process knows its configuration, too
    name = cb.as_backbone(old.model, old.preprocess, old.tokenizer)
    code = f"from compatbench.backbone import load_backbone; print(load_backbone('{name}').name)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.stderr) == (name, "")


def test_a_module_has_the_same_numbers_on_a_model_in_memory() -> None:
    models = {}
    for name in ("mini-clip", "mini-eva-clip"):
        found = load_backbone(name)
        models[name] = cb.as_backbone(found.model, found.preprocess, found.tokenizer)
    expected = cb.evaluate(cb.fit("tip_adapter", "mini-food", "mini-clip"), "mini-eva-clip")
    module = cb.fit("tip_adapter", "mini-food", models["mini-clip"])
    assert module.about["source"] == models["mini-clip"]
    found = cb.evaluate(module, models["mini-eva-clip"])
    for ours, theirs in ((found.source, expected.source), (found.target, expected.target)):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours.predictions.classes, theirs.predictions.classes)


def test_a_model_of_half_precision_and_a_config_of_ones_own_are_read() -> None:
    model: Any = make("Small")
    half = open_clip.create_model("Small", precision="bf16")
    half.load_state_dict(model.state_dict())
    assert load_backbone(cb.as_backbone(half, transform(model), tokenizer()))
    unknown = CONFIGS["Small"] | {"embed_dim": 12}
    own = open_clip.CLIP(**unknown)
    own.visual.preprocess_cfg = model.visual.preprocess_cfg
    with pytest.raises(CompatbenchError, match="no configuration of open_clip gives this CLIP"):
        cb.as_backbone(own, transform(model), tokenizer())
    with pytest.raises(CompatbenchError, match="this config does not give this CLIP"):
        cb.as_backbone(own, transform(model), tokenizer(), config="Small")
    name = cb.as_backbone(own, transform(model), tokenizer(), config={"model_cfg": unknown})
    assert load_backbone(name).embed_dim == 12


def of_transformers(folder: Path, kind: str = "clip") -> tuple[Any, Any]:
    """Return a small model of transformers that was read from a folder, and its processor."""
    transformers = pytest.importorskip("transformers")
    write_model(folder, kind)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    images = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    cls = getattr(transformers, FAMILIES[kind].model)
    processor = SimpleNamespace(image_processor=images, tokenizer=tokens)
    return cls.from_pretrained(folder), processor


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_model_of_transformers_computes_what_it_computes_from_its_folder(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, processor = of_transformers(tmp_path / "model", kind)
    capfd.readouterr()
    name = cb.as_backbone(model, processor)
    assert cb.as_backbone(model, processor) == name
    assert name.startswith(f"{type(model).__name__}-")
    expected = load_backbone(f"hf:{tmp_path / 'model'}")
    found = load_backbone(name)
    torch.testing.assert_close(logits(found, 64), logits(expected, 64), rtol=0, atol=1e-5)
    assert found.preprocess_settings == expected.preprocess_settings
    assert capfd.readouterr() == ("", "")
    # The place from which it was read does not matter.
    other = shutil.copytree(tmp_path / "model", tmp_path / "copy")
    assert cb.as_backbone(type(model).from_pretrained(other), processor) == name


def test_models_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    model: Any = make("Small")

    def refuse(message: str, *given: Any) -> None:
        with pytest.raises(CompatbenchError, match=message):
            cb.as_backbone(*given)

    refuse("Linear has no 'visual'; give a model of open_clip", nn.Linear(2, 2), None)
    refuse("CLIP needs its transform for evaluation and its tokenizer", model, transform(model))
    training = transform(model, train=True)
    refuse("preprocess cannot be used .it is the transform of t", model, training, tokenizer())
    refuse(
        "preprocess cannot be used .'Image' object has",
        model,
        lambda image: image.nothing,
        tokenizer(),
    )
    refuse("the tokenizer is not one that CLIP", model, transform(model), tokenizer(12))
    del model.visual
    refuse("CLIP has no 'visual'", model, None, None)
    clip, processor = of_transformers(tmp_path / "model")
    refuse("CLIPModel needs its processor", clip, processor.tokenizer)
    refuse("CLIPVisionModel does not compare images with texts", vision_model(), processor)
    assert not [*(tmp_path / "cache" / "backbones").rglob("*.yaml")]
    with pytest.raises(CompatbenchError, match=r"not by a CLIP; make a backbone .*cb.as_backbone"):
        cb.evaluate("module.safetensors", model)


def vision_model() -> Any:
    import transformers

    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, image_size=64)
    config = transformers.CLIPVisionConfig(**sizes, num_attention_heads=2)
    return transformers.CLIPVisionModel(config)


def test_a_model_that_was_changed_in_memory_by_more_than_its_weights_is_refused() -> None:
    model: Any = make("Small")
    encode = model.encode_image
    model.encode_image = lambda images: encode(images).roll(1, -1)
    with pytest.raises(CompatbenchError, match="computes other features"):
        cb.as_backbone(model, transform(model), tokenizer())
    del model.encode_image
    assert load_backbone(cb.as_backbone(model, transform(model), tokenizer()))
    # A stored model of the same weights does not hide the change.
    model.encode_image = lambda images: encode(images).roll(1, -1)
    with pytest.raises(CompatbenchError, match="computes other features"):
        cb.as_backbone(model, transform(model), tokenizer())


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_changed_model_of_transformers_is_refused(
    tower: str, is_stored: bool, tmp_path: Path
) -> None:
    model, processor = of_transformers(tmp_path / "model")
    if is_stored:
        cb.as_backbone(model, processor)
    compute = getattr(model, f"get_{tower}_features")

    def change(**given: Any) -> Any:
        features = compute(**given)
        return getattr(features, "pooler_output", features).roll(1, -1)

    setattr(model, f"get_{tower}_features", change)
    with pytest.raises(CompatbenchError, match=r"CLIPModel, read again .* computes other features"):
        cb.as_backbone(model, processor)


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "file"))
    model: Any = make("Small")
    with pytest.raises(CompatbenchError, match=f"cannot write {tmp_path}"):
        cb.as_backbone(model, transform(model), tokenizer())
    images = [Image.new("L", (8, 8), number) for number in range(4)]
    with pytest.raises(CompatbenchError, match=f"cannot write {tmp_path}"):
        cb.task(images, [0, 1, 0, 1], ["cat", "dog"])
