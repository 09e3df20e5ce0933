"""Checkpoints: what is read, what is refused, and that nothing in a file is run."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from malicious_pickle import TouchesFile
from safetensors.torch import save_file

from compatbench.errors import CompatbenchError
from compatbench.method import Module
from compatbench.method.checkpoint_reader import read_checkpoint


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def packed(tree: bytes, compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in {"data.pkl": tree, "version": b"3\n", **members}.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def arrays(**named: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


def call(function: bytes, length: int) -> bytes:
    """A pickle that calls a function with a number."""
    return b"\x80\x02c" + function + b"\n\x8a\x08" + length.to_bytes(8, "little") + b"\x85R."


def shared(levels: int) -> dict[str, Any]:
    """Mappings whose values are all the same mapping, level after level."""
    inner: dict[str, Any] = {}
    for _ in range(levels):
        inner = dict.fromkeys(("state_dict", "model_state_dict", "model", "module", "a"), inner)
    return inner


def endless() -> dict[str, Any]:
    """A mapping that contains itself."""
    mapping: dict[str, Any] = {}
    mapping["a"] = mapping
    return mapping


WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3)}
CALL = b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R."
# A place in the memory of the reader that would take 32 GB.
MEMO = b"\x80\x02}r\xff\xff\xff\xff."

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not a checkpoint: it does not begin as one"),
    "text": (b"a text", "is not a checkpoint"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "run 'git lfs pull'"),
    "half": (saved(WEIGHTS)[:-60], "is damaged or incomplete .*its end is missing; fetch it again"),
    "call": (packed(CALL), "it asks for builtins.eval; nothing in it was run"),
    "module": (saved({"model": torch.nn.Linear(2, 2)}), "it asks for torch.nn.modules.linear"),
    "memory": (packed(MEMO), "holds no tensors"),
    "bare pickle": (
        pickle.dumps({"w": 1}),
        r"is a bare pickle.*joblib.load\(.w.pt.\); numpy.savez.*classes=p.classes_.tolist\(\)",
    ),
    "bytearray": (packed(call(b"builtins\nbytearray", 4 << 30)), "asks for builtins.bytearray"),
    "tensor of a size": (
        packed(call(b"torch\nFloatTensor", 2 << 30)),
        "asks for torch.FloatTensor",
    ),
    "bytes of protocol 5": (packed(b"\x80\x05\x96" + bytes(4) + b"\1" + bytes(3)), "a bytearray"),
    "nested key": (packed(b"\x80\x02})" + 60 * b"2\x86" + b"K\1s."), "holds no tensors"),
    "shared mappings": (saved(shared(20)), "its names and lists are longer than"),
    "itself": (saved(endless()), "its names and lists are longer than"),
    "compressed": (packed(CALL, zipfile.ZIP_DEFLATED), "is compressed"),
    "numbers": (saved({"epoch": 5}), "holds no tensors; give a file with the weights"),
    "cut pickle": (packed(b"\x80\x02}q"), "is damaged or incomplete"),
    "objects": (
        arrays(w=np.ones(2), classes=np.array(["a", "b"], dtype=object)),
        r"'classes' is an array of Python objects, .*; save it with classes=ARRAY\.tolist\(\)",
    ),
    "stretched": (saved({"w": torch.zeros(1).expand(1 << 40)}), "more numbers than are stored"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", REFUSED)
def test_unreadable_checkpoint_is_refused_with_its_path(kind: str, tmp_path: Path) -> None:
    content, message = REFUSED[kind]
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(CompatbenchError, match=message) as error:
        read_checkpoint(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("place", ["weights", "optimizer", "scheduler"])
def test_pickled_code_is_never_run(place: str, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    path = tmp_path / "w.pt"
    path.write_bytes(saved({"state_dict": {**WEIGHTS}, place: TouchesFile(target)}))
    with pytest.raises(CompatbenchError, match=r"asks for .*(getattr|Path)"):
        read_checkpoint(path)
    assert not target.exists()


def test_optimizers_and_other_training_state_are_skipped(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    beside = {"args": argparse.Namespace(lr=1), "counts": defaultdict(list, a=[1])}
    beside |= {"accuracy": np.float64(0.5), "scheduler": scheduler, "optimizer": optimizer}
    content = {"state_dict": {"module.w": WEIGHTS["w"].half().T, "p": parameter}, "epoch": 3}
    path = tmp_path / "w.pt"
    content |= beside | {"names": ("a", "b"), "device": torch.device("cpu"), "best": None}
    path.write_bytes(saved(content))
    found = read_checkpoint(path)
    assert found.values == {"epoch": 3, "names": ["a", "b"], "counts.a": [1]}
    assert found.skipped == {"args", "accuracy", "device"}
    assert sorted(found.tensors) == ["p", "w"]
    assert torch.equal(found.tensors["w"], WEIGHTS["w"].half().T)
    assert torch.equal(found.tensors["p"], torch.ones(2))


def test_nested_tensors_and_views_are_read(tmp_path: Path) -> None:
    both = torch.arange(10)
    content = {"a": {"b": both[2:5], "c": {0: both[::3]}}, "empty": torch.zeros(0, 3)}
    (tmp_path / "w.pt").write_bytes(saved(content))
    found = read_checkpoint(tmp_path / "w.pt").tensors
    assert found["a.b"].tolist() == [2, 3, 4]
    assert found["a.c.0"].tolist() == [0, 3, 6, 9]
    assert found["empty"].shape == (0, 3)


def test_file_of_torch_before_1_6_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"state_dict": WEIGHTS, "epoch": 3}, path, _use_new_zipfile_serialization=False)
    found = read_checkpoint(path)
    assert torch.equal(found.tensors["w"], WEIGHTS["w"])
    assert found.values == {"epoch": 3}


def test_single_tensors_and_other_containers_are_read(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(saved(torch.ones(2, dtype=torch.bfloat16)))
    assert read_checkpoint(tmp_path / "w.pt").tensors[""].dtype == torch.bfloat16
    (tmp_path / "w.npz").write_bytes(arrays(a=np.ones(2, np.float32), names=np.array(["x"])))
    found = read_checkpoint(tmp_path / "w.npz")
    assert [*found.tensors] == ["a"]
    assert found.values == {"names": ["x"]}
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "w.safetensors").tensors["w"], WEIGHTS["w"])
    Module(WEIGHTS).save(tmp_path / "ours.safetensors")
    with pytest.raises(CompatbenchError, match="is a module of compatbench; it needs no import"):
        read_checkpoint(tmp_path / "ours.safetensors")


def test_array_whose_header_cannot_be_parsed_is_refused(tmp_path: Path) -> None:
    header = b"(" * 99 + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("coef.npy", array)
    with pytest.raises(CompatbenchError, match="npz is damaged or incomplete"):
        read_checkpoint(tmp_path / "w.npz")


def test_folder_without_a_single_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompatbenchError, match=r"no checkpoint found .*model\.pth\.tar-50"):
        read_checkpoint(tmp_path)
    for name in ("keys_1shots.pt", "keys_16shots.pt"):
        (tmp_path / name).write_bytes(saved(torch.ones(2)))
    with pytest.raises(CompatbenchError, match=r"give one of keys_16shots.pt, keys_1shots.pt"):
        read_checkpoint(tmp_path)
    # The file that names the last checkpoint cannot lead out of its folder.
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "checkpoint").write_text("../keys_1shots.pt\n")
    with pytest.raises(CompatbenchError, match=r"model/keys_1shots.pt"):
        read_checkpoint(tmp_path)
    with pytest.raises(CompatbenchError, match="nowhere"):
        read_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("folder", ["", "prompt_learner"])
def test_folder_of_dassl_needs_no_index_file(tmp_path: Path, folder: str) -> None:
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    for name in ("model.pth.tar-5", "model.pth.tar-50", "model.pth.tar-old"):
        (place / name).write_bytes(saved(torch.ones(2)))
    assert read_checkpoint(tmp_path).path == place / "model.pth.tar-50"
    (place / "model-best.pth.tar").write_bytes(saved(torch.ones(2)))
    assert read_checkpoint(tmp_path).path == place / "model-best.pth.tar"


def test_folder_of_two_dassl_models_names_both(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.pth.tar-5").write_bytes(saved(torch.ones(2)))
    with pytest.raises(CompatbenchError, match=r"give one of a/model.pth.tar-5, b/model.pth"):
        read_checkpoint(tmp_path)
