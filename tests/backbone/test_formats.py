"""Checkpoints of every format give the same model; unreadable ones give one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from loading_models import (
    CONFIGS,
    State,
    eva_names,
    make,
    publish,
    same_weights,
    save_torchscript,
    with_openais_numbers,
)
from open_clip import pretrained
from safetensors.torch import save_file

from compatbench.backbone import load_backbone
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.extras.doctor.backbone_report import inspect_backbone
from compatbench.files.hashes import hash_file

pytestmark = pytest.mark.usefixtures("no_weights_here")


def scale_within(state: State) -> State:
    """Move the scale into the text tower, as EVA-CLIP's loader does."""
    names = eva_names(state)
    return names | {"text.logit_scale": names.pop("logit_scale")}


def with_prefix(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def in_text_tower(state: State) -> State:
    moved = {}
    for name, tensor in state.items():
        if not name.startswith(("visual", "logit")):
            name = f"text.{name}"
        moved[name] = tensor
    return moved


def in_halves(state: State) -> State:
    return {name: tensor.half() for name, tensor in state.items()}


CLIP = "Small-quickgelu"
EVA_CLIP = "Small-eva"
old_pickle = partial(torch.save, _use_new_zipfile_serialization=False)
# The model, the change of its tensors, and the function that writes them.
FORMATS: dict[str, tuple[str, Callable[[State], Any], Callable[..., object]]] = {
    "safetensors": (CLIP, dict, save_file),
    "torch zip": (CLIP, dict, torch.save),
    "older pickle": (CLIP, dict, old_pickle),
    "training checkpoint": (
        CLIP, lambda s: {"epoch": 3, "state_dict": with_prefix("module.", s)}, torch.save
    ),
    "step beside the model": (CLIP, lambda s: {"step": torch.tensor(3), "model": s}, torch.save),
    "OpenAI's numbers": (CLIP, with_openais_numbers, torch.save),
    "names with a text tower": (CLIP, in_text_tower, torch.save),
    "scale as a vector": (CLIP, lambda s: s | {"logit_scale": s["logit_scale"][None]}, save_file),
    "older buffers": (CLIP, lambda s: s | {"attn_mask": torch.zeros(16, 16)}, save_file),
    "TorchScript of OpenAI": (CLIP, dict, save_torchscript),
    "EVA-CLIP's authors'": (EVA_CLIP, lambda s: {"module": eva_names(s)}, torch.save),
    "EVA-CLIP's loader": (EVA_CLIP, scale_within, torch.save),
    "EVA-CLIP without a text tower": (
        EVA_CLIP, lambda s: {n.removeprefix("text."): t for n, t in s.items()}, torch.save
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_checkpoint_of_every_format_gives_the_same_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, change, write = FORMATS[name]
    model: Any = make(architecture)
    model.load_state_dict(in_halves(model.state_dict()))
    path = tmp_path / ("w.safetensors" if write is save_file else "w.pt")
    write(change(in_halves(model.state_dict())), path)
    if write is save_torchscript:  # TorchScript is read only if its hash is OpenAI's
        publish(monkeypatch, hash_file(path))
    backbone = load_backbone(f"{architecture}@{path}")
    assert same_weights(backbone.model, model)
    images = torch.randn(2, 3, *backbone.preprocess_settings["size"])
    texts = ("a photo of a dog",)
    ids = backbone.tokenizer(["a photo of a dog"])
    torch.testing.assert_close(backbone.encode_images(images), model.encode_image(images))
    torch.testing.assert_close(backbone.text_features(texts), model.encode_text(ids))


def test_checkpoint_without_activation_warns_which_name_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(make("Small").state_dict(), path)
    monkeypatch.delitem(pretrained._PRETRAINED["Small"], "half")
    said = r"GELU.* \(Small/TAG@FILE\), or the model 'Small-q"
    with pytest.warns(CompatbenchWarning, match=said):
        load_backbone(f"Small@{path}")
    for name in ("Small/plain", "Small-quickgelu"):  # here a warning is an error
        load_backbone(f"{name}@{path}")


def test_published_file_is_recognised_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "open_clip_model.safetensors"
    save_file(make("Small").state_dict(), path)  # OpenAI's tensors, without the marks of its files
    publish(monkeypatch, hash_file(path))
    other = {"hf_hub": "us/other/", "quick_gelu": True}
    monkeypatch.setitem(pretrained._PRETRAINED["Small-quickgelu"], "other", other)
    monkeypatch.delitem(pretrained._PRETRAINED["Small"], "half")  # which normalises otherwise
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIGS["Small"]}))
    said = "which are Small-quickgelu/openai, were trained with QuickGELU.*; "
    for name, message in (
        (f"Small@{path}", said + "use the model 'Small-quickgelu'"),
        (f"Small/plain@{path}", said + "use the model 'Small-quickgelu'"),
        (f"local-dir:{tmp_path}", said + "set 'quick_gelu: true' in the model_cfg"),
        (f"Small-quickgelu/other@{path}", "are Small-quickgelu/openai, not 'other'; name them"),
    ):
        with pytest.raises(CompatbenchError, match=message):
            load_backbone(name)
    load_backbone(f"Small-quickgelu@{path}")  # known, so without the warning, an error here


@pytest.mark.parametrize("write", [save_file, torch.save, old_pickle])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_truncated_checkpoint_is_refused(write: Any, share: float, tmp_path: Path) -> None:
    path = tmp_path / ("w.safetensors" if write is save_file else "w.pt")
    write(make("Small").state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CompatbenchError, match=r"damaged or incomplete \([\d,]+ bytes\)"):
        load_backbone(f"Small/plain@{path}")


def write(name: str, write: Any = torch.save, change: Any = dict) -> Callable[[Path], object]:
    """Return a function that writes the weights of a small model."""
    return lambda path: write(change(make(name).state_dict()), path)


def another_image_size(state: State) -> State:
    return eva_names(state) | {"visual.pos_embed": torch.randn(1, 50, 128)}


SMALL = "Small/plain@w.pt"
EVA = "Small-eva@w.pt"
FOLDER = {"open_clip_config.json": json.dumps({"model_cfg": CONFIGS["Small"]}).encode()}
BERT = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""}
NAFLEX = BERT | {"config.json": b'{"model_type": "siglip2"}'}
# A backbone's name, the files in the folder, and the error.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("vit-b16-opena", {}, "did you mean vit-b16-openai"),
    ("ViT-B-16-quickgelu", {}, "an architecture without weights; give ViT-B-16-quickgelu/TAG"),
    ("ViT-B16/openai", {}, "no open_clip model named 'ViT-B16'; did you mean"),
    ("ViT-B-16/opnai", {}, "no tag of ViT-B-16 named 'opnai'; did you mean openai"),
    ("ViT-B-16/openai", {}, "use the model 'ViT-B-16-quickgelu'"),
    ("Small@nowhere.pt", {}, "there is no file .*nowhere.pt"),
    ("local-dir:nowhere", {}, "there is no folder .*nowhere"),
    ("hf:./nowhere", {}, "there is no folder .*nowhere"),
    ("local-dir:.", FOLDER, "holds no weights"),
    ("local-dir:.", FOLDER | {"a.pt": b"", "b.pt": b""}, "several checkpoints, a.pt, b.pt"),
    ("hf:.", BERT, "type 'bert' are not supported; supported: clip"),
    ("hf:.", NAFLEX, "type 'siglip2' are not supported; NaFlex keeps the shape"),
    (SMALL, {"w.pt": b"version https://git-lfs.github.com/spec/v1\noid"}, "git-lfs pointer"),
    (SMALL, {"w.pt": b"<!DOCTYPE html><html>404</html>"}, "is not a checkpoint"),
    (SMALL, {"w.pt": b""}, "is not a checkpoint"),
    (SMALL, {"w.pt": partial(torch.save, {"epoch": 3})}, "holds no weights"),
    (SMALL, {"w.pt": write("Small", save_torchscript)}, "TorchScript.*add --trust-pickle"),
    (SMALL, {"w.pt": write("Small", change=with_openais_numbers)}, "use the model 'Small-quickg"),
    (SMALL, {"w.pt": write("Small-wide")}, r"embedding is \[16, 24\] there, and \[16, 16\]"),
    (SMALL, {"w.pt": write("Small-eva")}, "they lack visual.class_embedding"),
    (EVA, {"w.pt": write("Small")}, "they lack visual.trunk.cls_token.*they also hold"),
    # These are not resized.
    (EVA, {"w.pt": write("Small-eva", change=another_image_size)}, r"is \[1, 50, 128\] there"),
    ("Small@w.pt", {"w.pt": write("Small")}, r"different normalisations.*Small/TAG@FILE"),
]


@pytest.mark.parametrize(("name", "files", "message"), REFUSED)
def test_unloadable_backbone_is_refused_with_the_reason(
    name: str, files: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, content in files.items():
        if isinstance(content, bytes):
            Path(file).write_bytes(content)
        else:
            content(Path(file))
    with pytest.raises(CompatbenchError, match=message):
        load_backbone(name)
    if not files:
        report = inspect_backbone(name)
        assert report.state == "wrong"
        assert report.message
        assert report.fix
