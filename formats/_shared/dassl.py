"""Checkpoints of Dassl's trainers, ``model.pth.tar-EPOCH``: parts of CLIP with learned prompts.

The container is ``save_model`` of KaiyangZhou/Dassl.pytorch (dassl/engine/trainer.py):
``{state_dict, epoch, optimizer, scheduler, val_result}``, in a folder for each registered model.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from compatbench.method import Method, Module
from compatbench.method.checkpoint_reader import Checkpoint
from compatbench.method.format import Config, Converted, Format, Import, torch_bytes

from .class_names import check_class_names


class Part(NamedTuple):
    """Where a tensor of ours is in a state dict.

    ``more`` is the name of those of further blocks, with ``{}`` for the number, of which ``first``
    is the first; ours is the stack.
    """

    key: str
    sizes: str
    more: str = ""
    first: int = 0

    def others(self) -> list[str]:
        """The names that those of further blocks may have."""
        return [self.more.format(n) for n in range(self.first, 1000)] if self.more else []


class Dassl(Format):
    """A format whose tensors have other names, and nothing else that differs.

    Attributes:
        parts: by our names. What else is in a file is not read: frozen towers, and buffers that
            ``attach`` makes anew.
        shapes: settings of the method that a tensor's shape tells: its name, and the dimension.
        unlike: a file with a name that begins with one of these is of another format.
        averaged: the file holds a mean over epochs, of its buffers too.
    """

    parts: ClassVar[Mapping[str, Part]]
    shapes: ClassVar[Mapping[str, tuple[str, int]]] = {}
    unlike: ClassVar[tuple[str, ...]] = ()
    averaged: ClassVar[bool] = False

    def recognise(self, file: Checkpoint) -> bool:
        has = all(part.key in file.tensors for part in self.parts.values())
        return has and not any(name.startswith(self.unlike) for name in file.tensors)

    def config(self, module: Module) -> dict[str, Any]:
        """The settings of the method that the file tells."""
        return {name: module[tensor].shape[dim] for name, (tensor, dim) in self.shapes.items()}

    def read(self, imported: Import) -> Converted:
        trained = {}
        for name, part in self.parts.items():
            others = takewhile(imported.file.tensors.__contains__, part.others())
            rows = [imported.take(key, part.sizes) for key in (part.key, *others)]
            trained[name] = torch.stack(rows) if part.more else rows[0]
        module = Module(trained)
        return Converted(module, self.config(module))

    def confirm(self, imported: Import, method: Method, module: Module) -> bool:
        how = (method, module, self.averaged)
        return bool(self.suffix) and check_class_names(imported, self.suffix, *how)

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        state = {}
        for name, part in self.parts.items():
            rows = module[name] if part.more else [module[name]]
            state |= dict(zip((part.key, *part.others()), rows, strict=False))
        state = {name: rows.clone() for name, rows in state.items()}
        content = {"state_dict": state, "epoch": 0, "optimizer": None, "scheduler": None}
        return {path: torch_bytes(content | {"val_result": 0.0})}
