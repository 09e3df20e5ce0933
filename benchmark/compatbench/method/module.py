"""A module: what a fit leaves behind, and all that is carried to another backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.files import canonical_json, sha256_bytes, write_atomic

SCHEMA = "compatbench-module-1"


class Module:
    """Named tensors, some trained and some merely stored, as a fit left them.

    Nothing that can be derived from a backbone and class names belongs here: a
    derived buffer carried along would turn the target's classifier into the source's.

    Attributes:
        trained: tensors found by optimisation or in closed form; they count as parameters.
        stored: data the module keeps, such as the labels of a cache or a chosen weight.
    """

    def __init__(
        self,
        trained: Mapping[str, Tensor] | None = None,
        stored: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.trained = dict(trained or {})
        self.stored = dict(stored or {})
        if both := self.trained.keys() & self.stored.keys():
            raise ValueError(f"tensor '{min(both)}' is both trained and stored")

    def __getitem__(self, name: str) -> Tensor:
        return self.trained[name] if name in self.trained else self.stored[name]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self.trained | self.stored

    @property
    def parameters(self) -> int:
        """Numbers that the fit determined."""
        return sum(tensor.numel() for tensor in self.trained.values())

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @property
    def fingerprint(self) -> str:
        """Hash of names, shapes, types and bits."""
        parts = []
        for name, tensor in sorted(self.tensors.items()):
            tensor = tensor.detach().cpu().contiguous()
            parts += [
                f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode(),
                tensor.numpy().tobytes(),
            ]
        return sha256_bytes(*parts)

    def detach(self) -> Module:
        """A copy without gradients, in contiguous memory of its own."""

        def copy(group: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.detach().clone().contiguous() for name, tensor in group.items()}

        return Module(copy(self.trained), copy(self.stored))

    def to(self, device: torch.device) -> Module:
        """The module on another device."""

        def move(group: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in group.items()}

        return Module(move(self.trained), move(self.stored))

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Writes a safetensors file with ``about`` (JSON) and a checksum in its header."""
        cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        # One entry, for safetensors writes several in no fixed order.
        header = {
            "schema": SCHEMA,
            "trained": sorted(self.trained),
            "about": dict(about),
            "sha256": _checksum(self, dict(about)),
        }
        write_atomic(path, save(cpu, {"compatbench": canonical_json(header)}))


def _checksum(module: Module, about: dict[str, Any]) -> str:
    """Hash of all that a file holds: the tensors, which of them are trained, and ``about``."""
    words = canonical_json([sorted(module.trained), about])
    return sha256_bytes(module.fingerprint.encode(), words.encode())


def load_module(path: Path) -> tuple[Module, dict[str, Any]]:
    """Reads a module and what its file says about it.

    Raises:
        CompatbenchError: the file is missing, damaged, or not a module.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(metadata.get("compatbench", "{}"))
        if not isinstance(header, dict) or header.get("schema") != SCHEMA:
            raise CompatbenchError(f"{path} is not a compatbench module")
        trained, about, checksum = set(header["trained"]), header["about"], header["sha256"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CompatbenchError(f"cannot read module {path}: {error}") from None
    module = Module(
        {name: tensor for name, tensor in tensors.items() if name in trained},
        {name: tensor for name, tensor in tensors.items() if name not in trained},
    )
    if _checksum(module, about) != checksum:
        raise CompatbenchError(f"{path} is damaged: its checksum does not agree with its content")
    return module, about
