"""The page's functions serve exported files of ported modules: their logits are the module's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from backbone.loading_models import write_model

import compatbench as cb
from compatbench.backbone import Backbone, Labels, load_backbone
from compatbench.data.task import task_labels
from compatbench.errors import CompatbenchWarning
from compatbench.method import Module, convert
from compatbench.method.registry import builtin_methods

from .files_of_authors import save_peft

PAGE = Path(__file__).parents[2] / "docs" / "import.md"
TARGET = "mini-eva-clip"
LABELS = task_labels("mini-food")


@pytest.fixture(scope="module")
def served() -> dict[str, Any]:
    """Return the functions of the page."""
    [code] = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
    functions: dict[str, Any] = {}
    exec(code, functions)
    return functions


@pytest.fixture(scope="module")
def target() -> Backbone:
    return load_backbone(TARGET)


def own_logits(module: Module, backbone: Backbone, features: torch.Tensor) -> torch.Tensor:
    cls: Any = builtin_methods().get(module.about["method"])
    method = cls(cls.Config.model_validate(module.about["config"]))
    with torch.no_grad():
        return method.attach(module, backbone, LABELS)(features)


def draw_features(backbone: Backbone) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(4, backbone.embed_dim, generator=generator), dim=-1)


def test_exported_context_of_coop_is_served(
    served: dict[str, Any], target: Backbone, tmp_path: Path
) -> None:
    source = load_backbone("mini-clip")
    config: Any = builtin_methods().get("coop").Config(context_length=4)
    about = {"method": "coop", "task": "mini-food", "source": "mini-clip"}
    about |= {"config": config.model_dump(mode="json"), "labels": LABELS.described}
    module = Module({"context": 0.05 * torch.randn(4, source.token_width)}, {}, about)
    ported = cb.port(module, TARGET)
    file = tmp_path / "model.pth.tar-50"
    cb.export_module("coop", ported, file, dtype="float32")
    f = draw_features(target)
    logits = served["coop_logits"](file, LABELS.names, target.model, target.tokenizer, f)
    torch.testing.assert_close(logits.detach(), own_logits(ported, target, f), rtol=1e-3, atol=1e-3)


def test_port_of_a_module_with_an_undecided_setting_warns() -> None:
    source = load_backbone("mini-clip")
    config: Any = builtin_methods().get("coop").Config(context_length=4)
    about = {"method": "coop", "task": "mini-food", "source": "mini-clip"}
    about |= {"config": config.model_dump(mode="json"), "labels": LABELS.described}
    about["imported"] = {"undecided": {"position": ["end", "middle", "front"]}}
    module = Module({"context": torch.zeros(4, source.token_width)}, {}, about)
    with pytest.warns(CompatbenchWarning, match="the file did not say position"):
        cb.port(module, TARGET)


def test_exported_cache_of_tip_adapter_is_served(
    served: dict[str, Any], target: Backbone, tmp_path: Path
) -> None:
    module = cb.fit("tip_adapter", "mini-food", "mini-clip", shots=2, views=1)
    ported = cb.port(module, TARGET)
    written = cb.export_module("tip_adapter", ported, tmp_path / "cache", dtype="float32")
    numbers = written.not_stored
    f = draw_features(target)
    prompts = list(LABELS.fill())
    logits = served["tip_adapter_logits"](
        tmp_path / "cache", 2, numbers["alpha"], numbers["beta"], prompts, target.model,
        target.tokenizer, f,
    )  # fmt: skip
    torch.testing.assert_close(logits.detach(), own_logits(ported, target, f), rtol=1e-3, atol=1e-3)


def test_exported_coefficients_of_a_linear_head_are_served_with_class_names(
    served: dict[str, Any], target: Backbone, tmp_path: Path
) -> None:
    config = {"normalized": True}
    module = cb.fit("linear_probe", "mini-food", "mini-clip", shots=2, views=1, config=config)
    ported = cb.port(module, TARGET)
    file = tmp_path / "probe.npz"
    cb.export_module("linear_normalized", ported, file)
    f = draw_features(target)
    found = torch.from_numpy(served["linear_logits"](file, f))
    torch.testing.assert_close(found, own_logits(ported, target, f), rtol=1e-3, atol=1e-3)
    assert tuple(np.load(file)["class_names"]) == LABELS.names


def test_exported_adapter_is_served_by_peft(
    served: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    from transformers import AutoTokenizer

    monkeypatch.chdir(tmp_path)
    labels = Labels(("dog", "red apple", "tree"), ("a photo of a {}.",), "a photo of a {}.")
    monkeypatch.setattr(convert, "task_labels", lambda name: labels)
    write_model(tmp_path / "old", "clip")
    model = write_model(tmp_path / "new", "clip", seed=2)
    places = [("text", 1, "q", 2), ("image", 0, "v", 3)]
    save_peft(tmp_path / "adapter", places, rank_pattern={"vision_model.*": 3}, r=2, lora_alpha=2)
    module = convert.import_module("auto", "adapter", "things", "hf:./old", device="cpu")
    ported = cb.port(module, "hf:./new")
    cb.export_module("peft", ported, "served")
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    found = served["peft_logits"]("served", list(labels.fill()), model, tokenizer, images)
    target = load_backbone("hf:./new")
    cls: Any = builtin_methods().get("clip_lora")
    method = cls(cls.Config.model_validate(ported.about["config"]))
    inputs = target.encode_images(images, method.image_input(target))
    with torch.no_grad():
        expected = method.attach(ported, target, labels)(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
