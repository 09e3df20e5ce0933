"""What a format is, and what is at hand while a file is imported."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.method import Method, Module
from compatbench.method.checkpoint_reader import Checkpoint

Config = Mapping[str, Any]  # settings of a method


class Size(NamedTuple):
    """A size that a backbone or a task decides."""

    what: str
    of: Callable[[Import], int]
    fix: str


_SOURCE = "give the source that it was trained on"
# By the letters in the shapes of a format; other letters stand for any size.
SIZES = {
    "C": Size(
        "number of classes of the task",
        lambda given: len(given.labels),
        "give the task, or the 'classes', that it was trained for",
    ),
    "D": Size("width of the source's tokens", lambda given: given.backbone.token_width, _SOURCE),
    "d": Size("width of the source's image tokens", lambda given: given.image_width, _SOURCE),
    "e": Size("size of the source's features", lambda given: given.backbone.embed_dim, _SOURCE),
}


@dataclass
class Import:
    """One import: the file, the source and classes it is for, and what was found on the way.

    Attributes:
        settings: as they were given, for the method.
        notes: what else the record is to say.
    """

    file: Checkpoint
    backbone: Backbone
    labels: Labels
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    dtype: str = ""
    _found: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def image_width(self) -> int:
        try:
            return self.backbone.image.width
        except NotTransferable as why:
            raise self.error(f"does not fit the source: {why.reason}") from None

    def error(self, problem: str) -> CompatbenchError:
        return CompatbenchError(f"{self.file.path} {problem}")

    def take(self, key: str, sizes: str, file: Checkpoint | None = None) -> Tensor:
        """The tensor of this name in the precision of the source's features.

        Args:
            sizes: a letter for each dimension, such as ``"M D"``; ``SIZES`` says which have a
                meaning, and another is the same size wherever it stands.
            file: another file than the one that is imported.

        Raises:
            CompatbenchError: there is no such tensor, a size differs, or a number is not finite.
        """
        file = file or self.file
        name = f"{file.path}: '{key}'" if key else f"{file.path}"
        if key not in file.tensors:
            held = ", ".join(sorted(file.tensors)[:4])
            raise CompatbenchError(
                f"{name} is not there; the file holds {held}; is the format right?"
            )
        tensor = file.tensors[key]
        shape = " × ".join(map(str, tensor.shape))
        if tensor.ndim != len(sizes.split()):
            raise CompatbenchError(
                f"{name} is {shape}, where the format has {sizes}; is the format right?"
            )
        for letter, length in zip(sizes.split(), tensor.shape, strict=True):
            if letter in SIZES and length != (wanted := SIZES[letter].of(self)):
                size = SIZES[letter]
                raise CompatbenchError(
                    f"{name} is {shape}, but the {size.what} is {wanted}, not {length}; "
                    f"{size.fix}{self._half(letter, length)}"
                )
            wanted, where = self._found.setdefault(letter, (length, name))
            if length != wanted:
                raise CompatbenchError(
                    f"{name} is {shape}, but {where} has {wanted}, not {length}; the files or "
                    "tensors are not of one module"
                )
        if not bool(tensor.isfinite().all()):
            raise CompatbenchError(
                f"{name} has numbers that are NaN or infinite: its training diverged; give the "
                "file of an earlier epoch"
            )
        self.dtype = self.dtype or str(tensor.dtype).removeprefix("torch.")
        # What was trained in half precision is exact in single.
        return tensor.to(torch.promote_types(self.backbone.dtype, torch.float32))

    def _half(self, letter: str, length: int) -> str:
        if letter != "C" or length not in (len(self.labels) // 2, -(-len(self.labels) // 2)):
            return ""
        return f" ({length} are its first half, base-to-new's 'base': --classes base)"


def torch_bytes(content: Any) -> bytes:
    """What ``torch.save`` makes of tensors, containers and plain values."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Converted(NamedTuple):
    """A module, and the settings of its method that the file tells.

    ``confirmed`` if the file itself tells that classes and source are the right ones.
    """

    module: Module
    config: dict[str, Any]
    confirmed: bool = False


class Format(ABC):
    """A kind of checkpoint, and the method whose modules it holds.

    A whole format file::

        from compatbench.method import Module
        from compatbench.method.format import Converted, Format


        class Vectors(Format):
            name, method = "vectors", "coop"

            def recognise(self, file):
                return "vectors" in file.tensors

            def read(self, given):
                context = given.take("vectors", "M D")  # M rows of the source's token width
                return Converted(Module({"context": context}), {"context_length": len(context)})

    Attributes:
        name: of the format; that of its method, where it has but one.
        method: the method's name.
        needs: settings that no file tells, each with what the authors use.
        suffix: the tensor with the embeddings of what stands behind the context, ``[C, S, D]``,
            if there is one: it tells whether classes and source are the right ones.
        dtype: in which its code saves tensors.
    """

    name: ClassVar[str]
    method: ClassVar[str]
    needs: ClassVar[Mapping[str, str]] = {}
    suffix: ClassVar[str] = ""
    dtype: ClassVar[str] = "float32"

    @abstractmethod
    def recognise(self, file: Checkpoint) -> bool:
        """Whether the names and shapes in a file are those of this format, and of no other."""

    @abstractmethod
    def read(self, imported: Import) -> Converted:
        """The module of a file; what does not fit is a ``CompatbenchError``."""

    def confirm(self, imported: Import, method: Method, module: Module) -> bool:
        """Whether the file tells that classes and source are the right ones.

        Args:
            method: with the settings of the import.
            module: as ``read`` gave it.

        Raises:
            CompatbenchError: it tells that they are not.
        """
        return False

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        """The files, as the authors' code writes a module to a path, with their contents.

        Args:
            module: its tensors are on the CPU, of the type that is to be written.
            config: of the module's method.
            path: of the file; of several, their folder.
        """
        raise CompatbenchError(f"modules are not exported to the format '{self.name}'")
