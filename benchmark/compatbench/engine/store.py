"""The run store: per cell a record, a module and its predictions, each written whole or not."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compatbench.engine.cell import CellRecord
from compatbench.engine.predictions import (
    Predictions,
    Where,
    read_predictions,
    write_predictions,
)
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import sha256_bytes
from compatbench.method.module import Module, load_module

DAMAGED = "damaged"


class RunStore:
    """Cells, modules and predictions under one folder, by key.

    A module is what a fit costs: it is on the disk when ``write_module`` returns, with all
    that is known of its fit. A record is what an evaluation costs, and is left to the
    system to write: if the machine crashes within about half a minute, the record may be
    gone or torn. Its checksum tells, and the cell goes on from its module. So it is with
    predictions, which are written before the record that is made from them.

    A file that cannot be read, or is another cell's, is set aside under ``damaged/``, never
    taken for a result and never deleted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inode = _inode(folder)

    def check_folder(self) -> None:
        """Sees whether the folder is still the one that was there when the store was opened.

        Where a disk was unmounted, an empty folder takes its place, and would be written to.

        Raises:
            CompatbenchError: it is gone, or another.
        """
        if self._inode is not None and _inode(self.folder) != self._inode:
            raise CompatbenchError(
                f"{self.folder} is gone, or was replaced, while a run used it; is its disk still "
                "mounted?"
            )

    def read(self, key: str) -> CellRecord | None:
        """The cell's record, or None if the cell was never fitted.

        If the record is missing or damaged, it is that of the fit alone, from the module.
        """
        path = self.cell_path(key)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return self._read_fit(key)
        except OSError as error:
            raise CompatbenchError(f"cannot read {path}: {error.strerror}") from None
        try:
            record = unseal(content)
            if record.key != key:
                raise ValueError("the key is another cell's")
        except (ValidationError, ValueError) as error:
            self._set_aside(path, str(error).splitlines()[0])
            return self._read_fit(key)
        return record

    def write(self, record: CellRecord) -> None:
        """Keeps a cell's record.

        Raises:
            CompatbenchError: the folder cannot be written.
        """
        self.check_folder()
        write_atomic(self.cell_path(record.key), _seal(record), sync=False)

    def read_module(self, record: CellRecord) -> Module | None:
        """The fitted module of a cell, or None if its file is missing or damaged."""
        module, _ = self._load_module(record.key)
        if module is not None and module.fingerprint != record.module:
            self._set_aside(self.module_path(record.key), "its record is of another module")
            return None
        return module

    def write_module(self, module: Module, record: CellRecord) -> None:
        """Keeps a fitted module with the record of its fit.

        Raises:
            CompatbenchError: the folder cannot be written.
        """
        self.check_folder()
        module.save(self.module_path(record.key), fit_description(record))

    def module_path(self, key: str) -> Path:
        return self.folder.joinpath("modules", key[:2], f"{key}.safetensors")

    def read_predictions(self, key: str) -> dict[Where, Predictions]:
        """What the cell's module answered where it was measured; nothing if the file is lost."""
        path = self.predictions_path(key)
        if not path.is_file():
            return {}
        try:
            return read_predictions(path, key)
        except CompatbenchError as error:
            self._set_aside(path, str(error))
            return {}

    def write_predictions(self, key: str, predictions: Mapping[Where, Predictions]) -> None:
        """Keeps what the cell's module answered.

        Raises:
            CompatbenchError: the folder cannot be written.
        """
        self.check_folder()
        write_predictions(self.predictions_path(key), predictions, key)

    def predictions_path(self, key: str) -> Path:
        return self.folder.joinpath("predictions", key[:2], f"{key}.safetensors")

    def cell_path(self, key: str) -> Path:
        return self.folder.joinpath("cells", key[:2], f"{key}.json")

    def claim_path(self, key: str) -> Path:
        """The lock file of whoever runs the cell."""
        return self.cell_path(key).with_suffix(".lock")

    def _load_module(self, key: str) -> tuple[Module | None, dict[str, object]]:
        path = self.module_path(key)
        if not path.is_file():
            return None, {}
        try:
            return load_module(path)
        except CompatbenchError as error:
            self._set_aside(path, str(error))
            return None, {}

    def _read_fit(self, key: str) -> CellRecord | None:
        module, about = self._load_module(key)
        if module is None:
            return None
        try:
            record = CellRecord.model_validate(about)
            if record.key != key:
                raise ValueError("the key is another cell's")
        except (ValidationError, ValueError) as error:
            self._set_aside(self.module_path(key), str(error).splitlines()[0])
            return None
        return record

    def _set_aside(self, path: Path, why: str) -> None:
        damaged = _free_name(self.folder / DAMAGED / path.name)
        try:
            damaged.parent.mkdir(parents=True, exist_ok=True)
            path.replace(damaged)
        except FileNotFoundError:
            return  # another process has moved it
        except OSError as error:
            raise CompatbenchError(f"{path} is damaged and cannot be moved: {error}") from None
        warnings.warn(
            f"{path} is damaged ({why}); it was moved to {damaged}",
            CompatbenchWarning,
            stacklevel=3,
        )


def fit_description(record: CellRecord) -> dict[str, Any]:
    """What a module's file says of its fit, as JSON values."""
    return record.model_dump(mode="json", exclude={"records", "error", "trace", "failure"})


def _inode(folder: Path) -> int | None:
    """What tells a folder from another of the same name; None if there is none."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _free_name(path: Path) -> Path:
    """The path, or one like it that nothing bears: what was set aside before stays."""
    names = (path.with_name(f"{path.name}.{number}") for number in count(1))
    return next(name for name in chain([path], names) if not name.exists())


def _seal(record: CellRecord) -> bytes:
    """A record as JSON, whose first field is the checksum of all that follows."""
    rest = record.model_dump_json(indent=1).encode().removeprefix(b"{\n") + b"\n"
    return _checksum_line(rest) + rest


def unseal(content: bytes) -> CellRecord:
    """The record that a file's bytes are.

    Raises:
        ValueError: these are not the bytes that were written.
    """
    length = len(_checksum_line(b""))
    line, rest = content[:length], content[length:]
    if line != _checksum_line(rest):
        raise ValueError("its checksum does not agree with its content")
    return CellRecord.model_validate_json(b"{\n" + rest)


def _checksum_line(rest: bytes) -> bytes:
    return f'{{\n "sha256": "{sha256_bytes(rest)}",\n'.encode()
