"""Checkpoints of every format give the same model, and what cannot be read gives one clear line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from loading_models import (  # noqa: F401
    CONFIGS,
    RELEASES,
    alone,
    make,
    same_weights,
    small_models,
)
from open_clip import pretrained
from safetensors.torch import save_file
from torch import Tensor, nn

from compatbench.backbone import load_backbone
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.extras.doctor.backbone_report import inspect_backbone

State = dict[str, Tensor]


def half(state: State) -> State:
    return {name: tensor.half() for name, tensor in state.items()}


def with_openais_numbers(state: State) -> State:
    numbers = dict(input_resolution=32, context_length=16, vocab_size=49408)
    return state | {name: torch.tensor(number) for name, number in numbers.items()}


def save_torchscript(state: State, path: Path) -> None:
    """A TorchScript archive with the names and the float16 of OpenAI's, numbers included."""

    class Archive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    archive = Archive()
    for name, tensor in with_openais_numbers(state).items():
        owner: nn.Module = archive
        *path_to, last = name.split(".")
        for part in path_to:
            if part not in dict(owner.named_children()):
                owner.add_module(part, Archive())
            owner = owner.get_submodule(part)
        owner.register_buffer(last, tensor.clone())
    torch.jit.save(torch.jit.script(archive), path)


def publish(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Has open_clip know a file as OpenAI's; returns the release."""
    address = f"https://openaipublic/{hashlib.sha256(path.read_bytes()).hexdigest()}/Small.pt"
    openai = RELEASES["Small"]["openai"] | {"url": address}
    for model in ("Small", "Small-quickgelu"):
        monkeypatch.setitem(pretrained._PRETRAINED, model, RELEASES[model] | {"openai": openai})
    return openai


WRITERS: dict[str, Callable[[State, Path], object]] = {
    "safetensors": save_file,
    "torch zip": torch.save,
    "older pickle": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "training checkpoint": lambda s, p: torch.save(
        {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in s.items()}}, p
    ),
    "model entry with a step tensor": lambda s, p: torch.save(
        {"step": torch.tensor(3), "model": s}, p
    ),
    "eager dictionary with OpenAI's numbers": lambda s, p: torch.save(with_openais_numbers(s), p),
    "names with a text tower": lambda s, p: torch.save(
        {n if n.startswith(("visual", "logit")) else f"text.{n}": t for n, t in s.items()}, p
    ),
    "scale as a vector": lambda s, p: save_file(s | {"logit_scale": s["logit_scale"][None]}, p),
    "positions of older transformers": lambda s, p: save_file(
        s | {"attn_mask": torch.zeros(16, 16)}, p
    ),
    "TorchScript of OpenAI": save_torchscript,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_a_checkpoint_of_any_format_gives_the_model(
    name: str, precision: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("Small-quickgelu")
    path = tmp_path / ("w.safetensors" if WRITERS[name] is save_file else "w.pt")
    if precision == torch.float16:
        model.load_state_dict(half(model.state_dict()))
    WRITERS[name]({n: t.to(precision) for n, t in model.state_dict().items()}, path)
    if WRITERS[name] is save_torchscript:  # only what is known to be OpenAI's is read
        publish(path, monkeypatch)
    backbone = load_backbone(f"Small-quickgelu@{path}")
    assert same_weights(backbone.model, model)
    images = torch.randn(2, 3, 32, 32)
    ids = backbone.tokenizer(["a photo of a dog"])
    own: Any = model
    torch.testing.assert_close(backbone.encode_images(images), own.encode_image(images))
    torch.testing.assert_close(backbone.text_features(("a photo of a dog",)), own.encode_text(ids))


def eva_names(state: State) -> State:
    """The names of EVA-CLIP's authors for open_clip's, written by hand."""
    pairs = [
        ("visual.trunk.", "visual."),
        ("attn.q_proj.bias", "attn.q_bias"),
        ("attn.v_proj.bias", "attn.v_bias"),
        ("attn.norm.", "attn.inner_attn_ln."),
        ("mlp.norm.", "mlp.ffn_ln."),
        ("mlp.fc1_g.", "mlp.w1."),
        ("mlp.fc1_x.", "mlp.w2."),
        ("mlp.fc2.", "mlp.w3."),
    ]
    renamed = {}
    for name, tensor in state.items():
        for ours, theirs in pairs:
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    renamed["visual.rope.freqs_cos"] = torch.randn(16, 32)
    renamed["visual.blocks.0.attn.rope.freqs_sin"] = torch.randn(16, 32)
    return renamed


def plain_names(state: State) -> State:
    return {name.removeprefix("text."): tensor for name, tensor in state.items()}


def scale_within(state: State) -> State:
    """As EVA-CLIP's loader has it: the scale among the tensors of the text tower."""
    names = eva_names(state)
    return names | {"text.logit_scale": names.pop("logit_scale")}


@pytest.mark.parametrize(
    "rename", [scale_within, plain_names, lambda state: {"module": eva_names(state)}]
)
def test_a_checkpoint_with_other_names_fits_an_eva_clip(
    rename: Callable[[State], object], tmp_path: Path
) -> None:
    model = make("Small-eva")
    torch.save(rename(model.state_dict()), tmp_path / "eva.pt")
    backbone = load_backbone(f"Small-eva@{tmp_path}/eva.pt")
    assert same_weights(backbone.model, model)


def test_a_file_that_does_not_say_its_activation_is_a_warning_with_what_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(make("Small").state_dict(), path)
    monkeypatch.delitem(pretrained._PRETRAINED["Small"], "half")
    with pytest.warns(
        CompatbenchWarning, match=r"GELU.* \(Small/TAG@FILE\), or the model 'Small-q"
    ):
        load_backbone(f"Small@{path}")
    for name in ("Small/plain", "Small-quickgelu"):  # here a warning is an error
        load_backbone(f"{name}@{path}")


def test_a_published_file_is_recognised_by_its_hash_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "open_clip_model.safetensors"
    save_file(make("Small").state_dict(), path)  # OpenAI's tensors, without the marks of its files
    openai, other = publish(path, monkeypatch), {"hf_hub": "us/other/", "quick_gelu": True}
    tags = {"openai": openai, "other": other}
    monkeypatch.setitem(pretrained._PRETRAINED, "Small-quickgelu", tags)
    monkeypatch.delitem(pretrained._PRETRAINED["Small"], "half")  # which normalises otherwise
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIGS["Small"]}))
    said = "which are Small-quickgelu/openai, were trained with QuickGELU.*; "
    for name, message in (
        (f"Small@{path}", said + "use the model 'Small-quickgelu'"),
        (f"Small/plain@{path}", said + "use the model 'Small-quickgelu'"),
        (f"local-dir:{tmp_path}", said + "say 'quick_gelu: true' in the model_cfg"),
        (f"Small-quickgelu/other@{path}", "are Small-quickgelu/openai, not 'other'; name them"),
    ):
        with pytest.raises(CompatbenchError, match=message):
            load_backbone(name)
    load_backbone(f"Small-quickgelu@{path}")  # known, so without the warning, an error here


@pytest.mark.parametrize("writer", ["safetensors", "torch zip", "older pickle"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_truncated_file_is_told(writer: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / ("w.safetensors" if writer == "safetensors" else "w.pt")
    WRITERS[writer](make("Small").state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CompatbenchError, match=r"damaged or incomplete \([\d,]+ bytes\)") as caught:
        load_backbone(f"Small/plain@{path}")
    assert "\n" not in str(caught.value)


def write(name: str, write: Any = torch.save, change: Any = dict) -> Callable[[Path], object]:
    """Writes the weights of a small model to a path."""
    return lambda path: write(change(make(name).state_dict()), path)


def another_image_size(state: State) -> State:
    return eva_names(state) | {"visual.pos_embed": torch.randn(1, 50, 128)}


SMALL, EVA = "Small/plain@w.pt", "Small-eva@w.pt"
FOLDER = {"open_clip_config.json": json.dumps({"model_cfg": CONFIGS["Small"]}).encode()}
BERT = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""}
# A backbone's name, the files that are there, and what is said.
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
    (SMALL, {"w.pt": b"version https://git-lfs.github.com/spec/v1\noid"}, "git-lfs pointer"),
    (SMALL, {"w.pt": b"<!DOCTYPE html><html>404</html>"}, "is not a checkpoint"),
    (SMALL, {"w.pt": b""}, "is not a checkpoint"),
    (SMALL, {"w.pt": partial(torch.save, {"epoch": 3})}, "holds no weights"),
    (SMALL, {"w.pt": write("Small", save_torchscript)}, "TorchScript.*say --trust-pickle"),
    (SMALL, {"w.pt": write("Small", change=with_openais_numbers)}, "use the model 'Small-quickg"),
    (SMALL, {"w.pt": write("Small-wide")}, r"embedding is \[16, 24\] there, and \[16, 16\]"),
    (SMALL, {"w.pt": write("Small-eva")}, "they lack visual.class_embedding"),
    (EVA, {"w.pt": write("Small")}, "they lack visual.trunk.cls_token.*they also hold"),
    # These are not resized.
    (EVA, {"w.pt": write("Small-eva", change=another_image_size)}, r"is \[1, 50, 128\] there"),
    ("Small@w.pt", {"w.pt": write("Small")}, r"different normalisations.*Small/TAG@FILE"),
]


@pytest.mark.parametrize(("name", "files", "message"), REFUSED)
def test_what_cannot_be_loaded_is_told(
    name: str, files: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, content in files.items():
        if isinstance(content, bytes):
            Path(file).write_bytes(content)
        else:
            content(Path(file))
    with pytest.raises(CompatbenchError, match=message) as caught:
        load_backbone(name)
    assert "\n" not in str(caught.value)
    if not files:
        report = inspect_backbone(name)
        assert report.state == "wrong"
        assert report.message
        assert report.fix
