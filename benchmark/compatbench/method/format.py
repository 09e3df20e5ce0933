"""The classes that a format is written with: the format itself, and one import of a file."""

from __future__ import annotations

import io
import math
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
    """A size that a backbone or a task determines."""

    what: str  # the name in messages
    measure: Callable[[Import], int]
    fix: str


_SOURCE = "give the source that it was trained on"
# Sizes by their letters in the shapes of a format; other letters stand for any size.
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


class OtherOrder(CompatbenchError):
    """A file that has the task's classes in another order: label c is the task's ``order[c]``."""

    def __init__(self, message: str, order: list[int]) -> None:
        super().__init__(message)
        self.order = order


@dataclass
class Import:
    """One import: the file, its source and classes, and the facts found while it is read.

    Attributes:
        file: the checkpoint.
        backbone: the source.
        labels: the classes that the module knows.
        settings: the user's settings for the method.
        notes: remarks for the module's record.
        dtype: type of the first tensor that was taken.
    """

    file: Checkpoint
    backbone: Backbone
    labels: Labels
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    dtype: str = ""
    # The first size that each letter had, and the tensor that had it.
    _found: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def image_width(self) -> int:
        """Return the width of the source's image tokens."""
        try:
            return self.backbone.image.width
        except NotTransferable as error:
            raise self.error(f"does not fit the source: {error.reason}") from None

    def error(self, problem: str) -> CompatbenchError:
        """Return an error whose message begins with the file."""
        return CompatbenchError(f"{self.file.path} {problem}")

    def take(self, key: str, sizes: str, file: Checkpoint | None = None) -> Tensor:
        """Return the tensor of this name in the precision of the source's features.

        Args:
            key: the tensor's name.
            sizes: a letter for each dimension, such as ``"M D"``. The letters of ``SIZES`` have
                a meaning; any other letter is the same size in all tensors.
            file: another file than the one that is imported.

        Raises:
            CompatbenchError: there is no such tensor, a size differs, or a number is not finite.
        """
        file = file or self.file
        name = f"{file.path}: '{key}'" if key else f"{file.path}"
        if key not in file.tensors:
            present = ", ".join(sorted(file.tensors)[:4])
            raise CompatbenchError(
                f"{name} is not there; the file holds {present}; is the format right?"
            )
        tensor = file.tensors[key]
        shape = " × ".join(map(str, tensor.shape))
        if tensor.ndim != len(sizes.split()):
            raise CompatbenchError(
                f"{name} is {shape}, where the format has {sizes}; is the format right?"
            )
        for letter, length in zip(sizes.split(), tensor.shape, strict=True):
            if letter in SIZES:
                size = SIZES[letter]
                expected = size.measure(self)
                if length != expected:
                    raise CompatbenchError(
                        f"{name} is {shape}, but the {size.what} is {expected}, not {length}; "
                        f"{size.fix}{self._hint_half(letter, length)}"
                    )
            expected, other = self._found.setdefault(letter, (length, name))
            if length != expected:
                raise CompatbenchError(
                    f"{name} is {shape}, but {other} has {expected}, not {length}; the files or "
                    "tensors are not of one module"
                )
        if not bool(tensor.isfinite().all()):
            raise CompatbenchError(
                f"{name} has numbers that are NaN or infinite: its training diverged; give the "
                "file of an earlier epoch"
            )
        self.dtype = self.dtype or str(tensor.dtype).removeprefix("torch.")
        # Numbers of half precision are exact in single precision.
        return tensor.to(torch.promote_types(self.backbone.dtype, torch.float32))

    def _hint_half(self, letter: str, length: int) -> str:
        """Return a hint for a number of classes that is half of the task's; else ''."""
        half = len(self.labels) / 2
        if letter != "C" or length not in (math.floor(half), math.ceil(half)):
            return ""
        return f" ({length} are its first half, base-to-new's 'base': --classes base)"


def torch_bytes(content: Any) -> bytes:
    """Return the bytes that ``torch.save`` writes for tensors, containers and plain values."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Converted(NamedTuple):
    """A module, and the settings of its method that the file contains.

    ``confirmed`` is True if the file itself confirms the classes and the source.
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
        name: the format's name; the method's if the method has only one format.
        method: the method's name.
        needs: settings that no file contains, each with the authors' value.
        undecided: settings that no file contains, each with all its values, the usual one first.
            It is assumed, and ``evaluate`` and ``advise`` try all of them on the images.
        suffix: the tensor with the embeddings of the text behind the context, ``[C, S, D]``,
            if there is one: it shows whether classes and source are the right ones.
        dtype: the type in which the authors' code saves tensors.
    """

    name: ClassVar[str]
    method: ClassVar[str]
    needs: ClassVar[Mapping[str, str]] = {}
    undecided: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    suffix: ClassVar[str] = ""
    dtype: ClassVar[str] = "float32"

    @abstractmethod
    def recognise(self, file: Checkpoint) -> bool:
        """Return True if names and shapes in a file are those of this format, and of no other."""

    @abstractmethod
    def read(self, imported: Import) -> Converted:
        """Return the module of a file.

        Raises:
            CompatbenchError: the file does not fit the format, the source or the classes.
        """

    def list_beside(self, path: Path) -> list[Path]:
        """Return the files beside a checkpoint that ``read`` reads too, whether they exist or not.

        A second call of ``advise`` uses what the first one imported only if none has changed.
        """
        return []

    def confirm(self, imported: Import, method: Method, module: Module) -> bool:
        """Return True if the file confirms the classes and the source.

        Args:
            imported: the import.
            method: the method with the settings of the import.
            module: the module that ``read`` returned.

        Raises:
            CompatbenchError: the file shows that they are wrong.
        """
        return False

    def write(self, module: Module, config: Config, path: Path) -> dict[Path, bytes]:
        """Return the files that the authors' code would write for a module, with their contents.

        Args:
            module: the module; its tensors are on the CPU, of the type to write.
            config: the settings of the module's method.
            path: the file to write; for several files, their folder.
        """
        raise CompatbenchError(f"modules are not exported to the format '{self.name}'")
