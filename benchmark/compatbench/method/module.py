"""A module: what a fit leaves behind, and all that is carried to another backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.files.tensors import fingerprint, load_tensors, save_tensors

SCHEMA = "compatbench-module-2"


class Module:
    """Named tensors as a fit left them.

    Nothing that can be derived from a backbone and class names belongs here: a
    derived buffer carried along would turn the target's classifier into the source's.

    Attributes:
        trained: tensors found by optimisation or in closed form; they count as parameters.
        stored: data the module keeps, such as the labels of a cache or a chosen weight.
        about: how it was fitted (method, config, task, source, shots, seed), where known.
    """

    def __init__(
        self,
        trained: Mapping[str, Tensor] | None = None,
        stored: Mapping[str, Tensor] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.trained = dict(trained or {})
        self.stored = dict(stored or {})
        self.about = dict(about or {})
        if both := self.trained.keys() & self.stored.keys():
            raise ValueError(f"tensor '{min(both)}' is both trained and stored")

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(one.shape)}" for name, one in self.tensors.items())
        about = [str(self.about.get(name, "?")) for name in ("method", "task", "source")]
        return f"<Module {' / '.join(about)}: {shapes or 'no tensors'}>"

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
        return fingerprint(self.tensors)

    def detach(self) -> Module:
        """A copy without gradients, in contiguous memory of its own."""
        return self._map(lambda tensor: tensor.detach().clone().contiguous())

    def to(self, device: torch.device) -> Module:
        """The module on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Module:
        trained = {name: change(tensor) for name, tensor in self.trained.items()}
        stored = {name: change(tensor) for name, tensor in self.stored.items()}
        return Module(trained, stored, self.about)

    def save(self, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
        """Writes a safetensors file with a checksum, and ``about``, or the module's own, as JSON.

        Raises:
            CompatbenchError: the folder cannot be written.
        """
        described = dict(self.about if about is None else about)
        words = {"trained": sorted(self.trained), "about": described}
        save_tensors(Path(path), self.tensors, SCHEMA, words)


def load_module(path: Path) -> tuple[Module, dict[str, Any]]:
    """Reads a module and what its file says about it.

    Raises:
        CompatbenchError: the file is missing, damaged, or not a module.
    """
    tensors, words = load_tensors(path, SCHEMA, "module")
    try:
        trained, about = set(words["trained"]), dict(words["about"])
    except (KeyError, TypeError, ValueError):
        raise CompatbenchError(f"{path} is not a compatbench module") from None
    found = {name: tensors.pop(name) for name in list(tensors) if name in trained}
    return Module(found, tensors, about), about
