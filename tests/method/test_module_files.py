"""Modules on disk: the same bytes each time, and any damage is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compatbench.errors import CompatbenchError
from compatbench.files.tensors import save_tensors
from compatbench.method import MODULE_SCHEMA, Module, load_module

ABOUT = {"method": "toy", "seed": 1, "config": {"epochs": 3, "name": "ä"}}


def small_module() -> Module:
    return Module(
        trained={"context": torch.tensor([[1.5, -2.0]]), "bias": torch.tensor([0.25])},
        stored={"values": torch.tensor([[0, 1], [1, 0]]), "alpha": torch.tensor(1.17)},
    )


def test_loaded_module_equals_the_saved_one_and_damage_is_noticed(tmp_path: Path) -> None:
    module = small_module()
    module.save(tmp_path / "m.safetensors", ABOUT)
    loaded = load_module(tmp_path / "m.safetensors")
    assert (loaded.trained.keys(), loaded.fingerprint) == ({"context", "bias"}, module.fingerprint)
    assert loaded.about == ABOUT
    content = bytearray((tmp_path / "m.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(CompatbenchError, match="is damaged: its checksum"):
        load_module(tmp_path / "m.safetensors")


def test_equal_modules_are_saved_as_equal_bytes(tmp_path: Path) -> None:
    small_module().save(tmp_path / "one", ABOUT)
    reordered = Module(
        dict(reversed(small_module().trained.items())),
        dict(reversed(small_module().stored.items())),
    )
    reordered.save(tmp_path / "two", dict(reversed(ABOUT.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


OURS = '{"schema": "compatbench-module-2"'
# Headers as text, and headers of complete files.
REFUSED: list[Any] = [
    None,
    "{}",
    "[]",
    "1",
    "null",
    "not JSON",
    '{"schema": "compatbench-module-0"}',
    f"{OURS}}}",
    f'{OURS}, "about": 1, "sha256": ""}}',
    f'{OURS}, "about": [], "sha256": ""}}',
    f'{OURS}, "about": {{}}, "sha256": 0}}',
    {},
    {"trained": 1, "about": {}},
    {"trained": [], "about": 1},
]


@pytest.mark.parametrize("header", REFUSED)
def test_missing_files_and_other_kinds_of_files_are_refused(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(CompatbenchError, match=r"m\.safetensors"):
        load_module(path)  # there is none yet
    if isinstance(header, dict):
        save_tensors(path, {"context": torch.zeros(2)}, MODULE_SCHEMA, header)
    else:
        metadata = None if header is None else {"compatbench": header}
        save_file({"context": torch.zeros(2)}, path, metadata)
    with pytest.raises(CompatbenchError, match=r"m\.safetensors"):
        load_module(path)


def test_tensor_is_either_trained_or_stored() -> None:
    with pytest.raises(ValueError, match="'x' is both"):
        Module({"x": torch.zeros(1)}, {"x": torch.zeros(1)})
    assert small_module().parameters == 3
    assert small_module().bytes == 3 * 4 + 4 * 8 + 4


@pytest.mark.parametrize(
    "other",
    [
        {"y": torch.zeros(2, 3)},
        {"x": torch.zeros(3, 2)},
        {"x": torch.zeros(2, 3, dtype=torch.int32)},
        {"x": torch.tensor([[0.0, 0, 0], [0, 0, -0.0]])},
    ],
    ids=["name", "shape", "type", "bits"],
)
def test_fingerprint_differs_between_modules(other: dict[str, torch.Tensor]) -> None:
    assert Module({"x": torch.zeros(2, 3)}).fingerprint != Module(other).fingerprint


def test_detached_and_saved_modules_share_no_memory(tmp_path: Path) -> None:
    large = torch.arange(12.0).reshape(3, 4)
    module = Module({"x": large.T[1:3]})
    copy = module.detach()
    module.save(tmp_path / "m", {})
    large.zero_()
    for other in (copy, load_module(tmp_path / "m")):
        assert other["x"].tolist() == [[1, 5, 9], [2, 6, 10]]
