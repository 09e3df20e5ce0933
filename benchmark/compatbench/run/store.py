"""The run store: one small file per cell, one per module, each written whole or not at all."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from pydantic import ValidationError

from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files import write_atomic
from compatbench.method.module import Module, load_module
from compatbench.run.cell import CellRecord


class RunStore:
    """Cells and modules under one folder, by key.

    A file that cannot be read is set aside under ``damaged/``, never taken for a
    result and never deleted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: str) -> CellRecord | None:
        """The cell's record, or None if the cell was never begun or its file is damaged."""
        path = self._cell_path(key)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CompatbenchError(f"cannot read {path}: {error.strerror}") from None
        try:
            record = CellRecord.model_validate_json(content)
            if record.key != key:
                raise ValueError("the key is another cell's")
        except (ValidationError, ValueError) as error:
            self._set_aside(path, str(error).splitlines()[0])
            return None
        return record

    def write(self, record: CellRecord) -> None:
        """Keeps a cell's record.

        Raises:
            CompatbenchError: the folder cannot be written.
        """
        text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False)
        write_atomic(self._cell_path(record.key), text.encode() + b"\n")

    def read_module(self, record: CellRecord) -> Module | None:
        """The fitted module of a cell, or None if its file is missing or damaged."""
        path = self.module_path(record.key)
        if not path.is_file():
            return None
        try:
            module, _ = load_module(path)
        except CompatbenchError as error:
            self._set_aside(path, str(error))
            return None
        return module if module.fingerprint == record.module else None

    def write_module(self, module: Module, record: CellRecord) -> None:
        """Keeps a fitted module beside what tells how it was made."""
        about = record.model_dump(
            mode="json", include={"method", "config", "task", "source", "shots", "seed", "key"}
        )
        module.save(self.module_path(record.key), about)

    def module_path(self, key: str) -> Path:
        return self.folder / "modules" / key[:2] / f"{key}.safetensors"

    def _cell_path(self, key: str) -> Path:
        return self.folder / "cells" / key[:2] / f"{key}.json"

    def _set_aside(self, path: Path, why: str) -> None:
        damaged = self.folder / "damaged" / path.name
        try:
            damaged.parent.mkdir(parents=True, exist_ok=True)
            path.replace(damaged)
        except OSError as error:
            raise CompatbenchError(f"{path} is damaged and cannot be moved: {error}") from None
        warnings.warn(
            f"{path} is damaged ({why}); it was moved to {damaged}",
            CompatbenchWarning,
            stacklevel=3,
        )
