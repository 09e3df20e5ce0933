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
    needs: ClassVar = {"alpha": SEARCHED.format("alpha"), "beta": SEARCHED.format("beta")}
    # The authors multiply the keys with features in half precision.
    dtype = "float16"
    start = "keys_"
    sizes = "e N"

    def recognise(self, file: Checkpoint) -> bool:
        # A file holds one unnamed matrix, so only the file's name identifies it.
        return file.path.name.startswith(self.start) and [*file.tensors] == [""]

    def read(self, imported: Import) -> Converted:
        if not imported.file.path.name.startswith(self.start):
            raise imported.error(
                f"is not named {self.start}...shots.pt, as those of '{self.name}' are"
            )
        [values_path] = self.list_beside(imported.file.path)
        values_file = read_checkpoint(values_path)
        keys = imported.take("", self.sizes)
        if self.sizes == "e N":
            keys = keys.T.contiguous()
        values = imported.take("", "N C", values_file)
        config = {name: float(imported.settings[name]) for name in self.needs}
        numbers = {name: torch.tensor(value).to(keys) for name, value in config.items()}
        return Converted(Module(stored={"keys": keys, "values": values, **numbers}), config)

    def list_beside(self, path: Path) -> list[Path]:
        return [path.with_name(path.name.replace(self.start, "values_", 1))]

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        keys = module["keys"]
        values = module["values"]
        shots = len(keys) // values.shape[1]
        tensors = {"keys_": keys.T, "values_": values}
        if self.start not in tensors:
            tensors[self.start] = torch.nn.Parameter(keys)
        files = {}
        for start, tensor in tensors.items():
            files[path / f"{start}{shots}shots.pt"] = torch_bytes(tensor)
        return files


class TipAdapterF(TipAdapter):
    """gaopengcuhk/Tip-Adapter: the trained keys, ``best_F_16shots.pt``, with the values."""

    name = method = "tip_adapter_f"
    start = "best_F_"
    sizes = "N e"

    def read(self, imported: Import) -> Converted:
        imported.notes.append("the authors' code chooses its epoch on the test set")
        converted = super().read(imported)
        stored = dict(converted.module.stored)
        trained = {"keys": stored.pop("keys")}
        return converted._replace(module=Module(trained, stored))
