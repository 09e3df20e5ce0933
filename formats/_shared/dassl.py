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
    """The place of one of our tensors in a state dict.

    Attributes:
        key: the tensor's name, or that of the first block's part.
        sizes: a letter for each dimension; see ``Import.take``.
        more: the name of further blocks' parts, with ``{}`` for a number. Our tensor stacks them.
        first: the number of the first of these.
    """

    key: str
    sizes: str
    more: str = ""
    first: int = 0

    def others(self) -> list[str]:
        """Return the names that the parts of further blocks may have."""
        if not self.more:
            return []
        return [self.more.format(number) for number in range(self.first, 1000)]


class Dassl(Format):
    """A format that differs from our modules only in the names of its tensors.

    Attributes:
        parts: by our names. Other tensors of a file are not read: frozen towers, and buffers that
            ``attach`` makes anew.
        shapes: settings of the method that are a size of a tensor, with its name and dimension.
        unlike: a file with a name that begins with one of these is of another format.
        averaged: the file holds a mean over epochs, also of its buffers.
    """

    parts: ClassVar[Mapping[str, Part]]
    shapes: ClassVar[Mapping[str, tuple[str, int]]] = {}
    unlike: ClassVar[tuple[str, ...]] = ()
    averaged: ClassVar[bool] = False

    def recognise(self, file: Checkpoint) -> bool:
        has = all(part.key in file.tensors for part in self.parts.values())
        return has and not any(name.startswith(self.unlike) for name in file.tensors)

    def config(self, module: Module) -> dict[str, Any]:
        """Return the settings of the method that are sizes of the module's tensors."""
        return {name: module[tensor].shape[dim] for name, (tensor, dim) in self.shapes.items()}

    def read(self, imported: Import) -> Converted:
        trained = {}
        for name, part in self.parts.items():
            tensor = imported.take(part.key, part.sizes)
            if part.more:
                others = takewhile(imported.file.tensors.__contains__, part.others())
                rows = [imported.take(key, part.sizes) for key in others]
                tensor = torch.stack([tensor, *rows])
            trained[name] = tensor
        module = Module(trained)
        return Converted(module, self.config(module))

    def confirm(self, imported: Import, method: Method, module: Module) -> bool:
        if not self.suffix:
            return False
        return check_class_names(imported, self.suffix, method, module, self.averaged)

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        state = {}
        for name, part in self.parts.items():
            rows = module[name] if part.more else [module[name]]
            keys = (part.key, *part.others())
            for key, tensor in zip(keys, rows, strict=False):
                # A copy: a view would be saved with the whole stack.
                state[key] = tensor.clone()
        content = {
            "state_dict": state,
            "epoch": 0,
            "optimizer": None,
            "scheduler": None,
            "val_result": 0.0,
        }
        return {path: torch_bytes(content)}
