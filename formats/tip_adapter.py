"""Tip-Adapter's caches, a file for each tensor: gaopengcuhk/Tip-Adapter, utils.py and main.py."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from compatbench.method import Module
from compatbench.method.checkpoint_reader import Checkpoint, read_checkpoint
from compatbench.method.format import Config, Converted, Format, Import, torch_bytes

SEARCHED = "which the authors' search prints; before it, init_{} of their configuration"


class TipAdapter(Format):
    """gaopengcuhk/Tip-Adapter: ``keys_16shots.pt`` with ``values_16shots.pt`` beside it."""

    name = method = "tip_adapter"
    needs: ClassVar = {name: SEARCHED.format(name) for name in ("alpha", "beta")}
    dtype = "float16"  # their products of halves take no other
    start, sizes = "keys_", "e N"

    def recognise(self, file: Checkpoint) -> bool:
        # One matrix is like another.
        return file.path.name.startswith(self.start) and [*file.tensors] == [""]

    def read(self, imported: Import) -> Converted:
        if not imported.file.path.name.startswith(self.start):
            raise imported.error(
                f"is not named {self.start}...shots.pt, as those of '{self.name}' are"
            )
        path = imported.file.path
        values = read_checkpoint(path.with_name(path.name.replace(self.start, "values_", 1)))
        keys = imported.take("", self.sizes)
        keys = keys if self.sizes == "N e" else keys.T.contiguous()
        stored = {"values": imported.take("", "N C", values)}
        config = {name: float(imported.settings[name]) for name in self.needs}
        stored |= {name: torch.tensor(value).to(keys) for name, value in config.items()}
        return Converted(Module(stored={"keys": keys, **stored}), config)

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        keys, values = module["keys"], module["values"]
        shots = len(keys) // values.shape[1]
        files = {"keys_": keys.T, "values_": values}
        if self.start not in files:
            files[self.start] = torch.nn.Parameter(keys)
        return {
            path / f"{start}{shots}shots.pt": torch_bytes(tensor) for start, tensor in files.items()
        }


class TipAdapterF(TipAdapter):
    """gaopengcuhk/Tip-Adapter: the trained keys, ``best_F_16shots.pt``, with the values."""

    name = method = "tip_adapter_f"
    start, sizes = "best_F_", "N e"

    def read(self, imported: Import) -> Converted:
        imported.notes.append("the authors' code chooses its epoch on the test set")
        converted = super().read(imported)
        stored = dict(converted.module.stored)
        return converted._replace(module=Module({"keys": stored.pop("keys")}, stored))
