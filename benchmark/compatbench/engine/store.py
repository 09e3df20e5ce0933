"""The run store: per cell a record, a module and its predictions; and who may run the cell.

A claim on a cell is a lock of the system (flock) on a file beside its record. The system frees it
when its holder ends, however it ends, so no claim outlives a crash and nothing has to guess
whether a holder is still alive. On network file systems the server does the same: NFS from
version 4 on, and Lustre mounted with ``flock``, free a dead machine's locks after about a
minute. Where there are no locks, cells may be run twice, which costs time and changes nothing:
records are written whole, and equal keys give equal records.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import Timeout
from torch import Tensor

from compatbench.engine.cell import Cell, CellRecord, Outcome, Where, describe_cell
from compatbench.engine.keys import zero_shot_key
from compatbench.errors import CompatbenchError, CompatbenchWarning, FolderError
from compatbench.files.atomic import cannot_write, write_atomic
from compatbench.files.hashes import sha256_bytes
from compatbench.files.kinds import kind_of, require
from compatbench.files.locks import acquire_lock
from compatbench.files.tensors import load_tensors, save_tensors
from compatbench.messages import first_line
from compatbench.method import Module, load_module
from compatbench.method.predictions import Predictions

ContentT = TypeVar("ContentT")

PREDICTIONS_SCHEMA = "compatbench-predictions-1"
DAMAGED = "damaged"  # the folder of files that were set aside


class RunStore:
    """Cells, modules and predictions under one folder, by key; each file is written whole or not.

    A module is what a fit costs: it is on the disk when ``write_module`` returns, with what
    decides its fit. A record is what an evaluation costs, and is left to the system to write: if
    the machine crashes within about half a minute, the record may be gone or torn. Its checksum
    shows that, and the cell is resumed from its module. The same holds for predictions, which are
    written before the record that is made from them.

    A file that cannot be read, or belongs to another cell, is set aside under ``damaged/``; it is
    never used as a result and never deleted. The same happens to anything that is in place of a
    file, or of a folder on its path. No link is followed: a link in place of a folder is a
    CompatbenchError. It is also an error if the folder cannot be written, or is no longer the one
    that was opened.

    Args:
        folder: it need not exist before the first file is written.
        inode: the number of the folder on its disk, if another process has opened it; by default
            that of the folder that is there now.
    """

    def __init__(self, folder: Path, inode: int | None = None) -> None:
        self.folder = folder
        self.inode = _inode(folder) if inode is None else inode
        self._zero_shot_keys: set[str] = set()  # of zero-shot predictions that are here
        # Zero-shot predictions by key, because every row needs one.
        self._zero_shot: dict[str, dict[Where, Predictions]] = {}

    def open_folder(self) -> None:
        """Create the folder if it does not exist; from now on it is an error if it is replaced."""
        self.require_folder()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from None
        self.inode = _inode(self.folder)

    def require_folder(self) -> None:
        """Raise CompatbenchError if the folder is not the one that was opened."""
        # Where a disk was unmounted, an empty folder takes its place, and would be written to.
        if self.inode is not None and _inode(self.folder) != self.inode:
            raise FolderError(
                f"{self.folder} is gone, or was replaced, while a run used it; is its disk still "
                "mounted?"
            )

    def cell_path(self, key: str) -> Path:
        return self.folder / "cells" / key[:2] / f"{key}.json"

    def module_path(self, key: str) -> Path:
        return self.folder / "modules" / key[:2] / f"{key}.safetensors"

    def predictions_path(self, key: str) -> Path:
        return self.folder / "predictions" / key[:2] / f"{key}.safetensors"

    def claim_path(self, key: str) -> Path:
        """Return the lock file of whoever runs the cell."""
        # Beside the record: making a file in a folder is what lets a network file system see
        # which records others have just made there.
        return self.cell_path(key).with_suffix(".lock")

    def read(self, key: str) -> CellRecord | None:
        """Return the cell's record, or None if the cell was never fitted.

        If the record is missing or damaged, it is that of the fit alone, from the module. The time
        of the fit is then unknown.
        """

        def read_fit(path: Path) -> CellRecord:
            about: dict[str, Any] = {"fit_seconds": None, **read_module(path).about}
            about.pop("labels", None)
            return CellRecord.model_validate(about)

        record = self._read(self.cell_path(key), read_record)
        if record is not None:
            return record
        return self._read(self.module_path(key), read_fit)

    def write(self, record: CellRecord) -> None:
        """Write a cell's record."""
        write_atomic(self._make_room(self.cell_path(record.key)), _seal(record), sync=False)

    def write_failure(self, cell: Cell, error: str, peak_memory: int | None = None) -> CellRecord:
        """Record that an attempt at a cell failed, and return the record.

        A stored fit stays: then each place that is left has a failed outcome. A cell that is done
        after all is left as it is. The caller holds the claim.
        """
        before = self.read(cell.key)
        if before is not None and self.is_done(cell, before):
            return before
        if before is None or before.status == "failed":
            record = describe_cell(cell, error=error)
        else:
            outcomes = {(done.backbone, done.test_set): done for done in before.records}
            for backbone, test_set, data in self.left(cell, before):
                outcomes[backbone, test_set] = Outcome(
                    backbone=backbone, test_set=test_set, data=data, status="failed", reason=error
                )
            record = before.model_copy(update={"records": tuple(outcomes.values())})
        peak = peak_memory or 0
        if before is not None:
            peak = max(peak, before.peak_memory or 0)
        record = record.model_copy(update={"peak_memory": peak or None})
        self.write(record)
        return record

    def read_module(self, record: CellRecord) -> Module | None:
        """Return the fitted module of a cell, or None if its file is missing or damaged."""
        path = self.module_path(record.key)
        return self._read(path, lambda path: read_module(path, record.module))

    def write_module(self, module: Module, record: CellRecord) -> None:
        """Write a fitted module with the record of its fit."""
        about = module.about | fit_description(record)
        module.save(self._make_room(self.module_path(record.key)), about)

    def read_predictions(self, key: str) -> dict[Where, Predictions]:
        """Return the cell's predictions by place; empty if the file is lost."""
        path = self.predictions_path(key)
        return self._read(path, lambda path: read_predictions(path, key)) or {}

    def write_predictions(self, key: str, predictions: Mapping[Where, Predictions]) -> None:
        """Write all predictions of a cell."""
        write_predictions(self._make_room(self.predictions_path(key)), predictions, key)

    def read_zero_shot(self, where: Where, precision: str) -> Predictions | None:
        """Return the zero-shot predictions at a place; None if they are lost."""
        key = zero_shot_key(where[2], precision)
        if key not in self._zero_shot:
            predictions = self.read_predictions(key)
            if not predictions:
                return None
            self._zero_shot[key] = predictions
        return self._zero_shot[key].get(where)

    def write_zero_shot(self, where: Where, precision: str, predictions: Predictions) -> None:
        """Write the zero-shot predictions at a place."""
        key = zero_shot_key(where[2], precision)
        self._zero_shot.pop(key, None)
        self.write_predictions(key, {where: predictions})

    def has_zero_shot(self, where: Where, precision: str) -> bool:
        """Return True if the zero-shot predictions at a place are here."""
        key = zero_shot_key(where[2], precision)
        if key not in self._zero_shot_keys and self.predictions_path(key).is_file():
            self._zero_shot_keys.add(key)
        return key in self._zero_shot_keys

    def left(self, cell: Cell, record: CellRecord | None) -> list[Where]:
        """Return the places without an outcome, or with a failed one, or lost predictions."""
        if record is None or not self.predictions_path(cell.key).is_file():
            return [*cell.places]
        status_at = {outcome.where: outcome.status for outcome in record.records}
        left = []
        for where in cell.places:
            status = status_at.get(where, "failed")
            if status == "ok":
                is_done = self.has_zero_shot(where, cell.training.precision)
            else:
                is_done = status == "not transferable"
            if not is_done:
                left.append(where)
        return left

    def is_done(self, cell: Cell, record: CellRecord | None) -> bool:
        """Return True if a cell has predictions, or a reason for none, at every place."""
        return record is not None and record.status == "ok" and not self.left(cell, record)

    def read_state(self, cell: Cell) -> tuple[bool, bool, float]:
        """Return True if a cell is done, True if its last attempt failed, and its seconds.

        The fit is not counted for a transfer, whose module is another cell's.
        """
        record = self.read(cell.key)
        if record is None:
            return False, False, 0.0
        fit = (record.fit_seconds or 0) if cell.key == cell.fit_key else 0
        seconds = fit + sum(outcome.seconds for outcome in record.records)
        return self.is_done(cell, record), bool(record.errors), seconds

    def claim(self, key: str) -> AbstractContextManager[bool]:
        """Claim the right to run a cell; its record has to be read again under the claim."""
        return self.locked(self.claim_path(key))

    @contextmanager
    def lock_fit(self, key: str, on_wait: Callable[[], object]) -> Iterator[None]:
        """Hold the right to make a fit, which cells of other transfers share.

        ``on_wait`` is as for ``acquire_lock``.
        """
        path = self.folder / "locks" / f"{key}.lock"
        with self.locked(path, on_wait):
            yield
            # Whoever still gets the lock of the removed file finds the fit.
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self, path: Path, on_wait: Callable[[], object] | None = None) -> Iterator[bool]:
        """Hold a lock file. Yield False if another process holds it and ``on_wait`` is None.

        ``on_wait`` is as for ``acquire_lock``.
        """
        self._make_room(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = acquire_lock(path, self.folder, on_wait)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise FolderError(f"cannot write {path}: {error.strerror or error}") from None
        try:
            yield True
        finally:
            lock.release()

    def _make_room(self, path: Path) -> Path:
        """Return the path of a file of the store, after making sure that it can be written."""
        self.require_folder()
        self._clear(path)
        return path

    def _clear(self, path: Path) -> None:
        """Set aside anything that is in place of a file, or of a folder on its path."""
        place = require(self.folder, "folder")
        for part in path.relative_to(place).parts:
            place = place / part
            kind = kind_of(place)
            expected = "file" if place == path else "folder"
            if kind == expected:
                continue
            if kind == "link" and expected == "folder":
                require(place, expected)  # an error: finished cells may lie where it leads
            if kind:
                self._set_aside(place, f"it is a {kind}, not a {expected}")
            return

    def _read(self, path: Path, read: Callable[[Path], ContentT]) -> ContentT | None:
        """Return the content of a file; None if it is missing, or damaged and set aside."""
        self.require_folder()
        self._clear(path)
        try:
            return read(path) if path.is_file() else None
        except FileNotFoundError:  # another process has moved it
            return None
        except OSError as error:
            raise CompatbenchError(f"cannot read {path}: {error.strerror}") from None
        except (CompatbenchError, ValueError) as error:
            self._set_aside(path, str(error).splitlines()[0])
        return None

    def _set_aside(self, path: Path, reason: str) -> None:
        """Move a file to ``damaged/``, under a free name, and warn about it."""
        damaged = require(self.folder / DAMAGED, "folder") / path.name
        number = 0
        while kind_of(damaged):  # what was set aside before stays
            number += 1
            damaged = damaged.with_name(f"{path.name}.{number}")
        try:
            damaged.parent.mkdir(parents=True, exist_ok=True)
            path.replace(damaged)
        except FileNotFoundError:  # another process has moved it
            return
        except OSError as error:
            problem = f"is damaged and cannot be moved: {first_line(error)}"
            raise CompatbenchError(f"{path} {problem}") from None
        warnings.warn(
            f"{path} is damaged ({reason}); it was moved to {damaged}",
            CompatbenchWarning,
            stacklevel=3,
        )


def fit_description(record: CellRecord) -> dict[str, Any]:
    """Return what a module's file contains about its fit, as JSON values; equal for equal fits."""
    return record.model_dump(
        mode="json", exclude={"fit_seconds", "peak_memory", "records", "error"}
    )


def read_module(path: Path, fingerprint: str = "") -> Module:
    """Return the module in a file, which must have the fingerprint; raises as ``read_record``."""
    module = load_module(path)
    if module.about.get("key") != path.stem:
        raise ValueError("the key is another cell's")
    if fingerprint not in ("", module.fingerprint):
        raise ValueError("its record is of another module")
    return module


def write_predictions(path: Path, predictions: Mapping[Where, Predictions], key: str) -> None:
    """Write all predictions of a cell to one file, with the cell's key."""
    tensors: dict[str, Tensor] = {}
    wheres = sorted(predictions)
    for number, where in enumerate(wheres):
        tensors[f"{number}.classes"] = predictions[where].classes
        tensors[f"{number}.confidence"] = predictions[where].confidence
    about = {"where": wheres, "key": key}
    save_tensors(path, tensors, PREDICTIONS_SCHEMA, about, sync=False)


def read_predictions(path: Path, key: str) -> dict[Where, Predictions]:
    """Return all predictions of the cell with this key from the file of ``write_predictions``."""
    tensors, about = load_tensors(path, PREDICTIONS_SCHEMA, "predictions file")
    # Files of earlier versions have no key.
    if about.get("key", key) != key:
        raise CompatbenchError(f"{path} is of another cell")
    predictions = {}
    for number, (backbone, test_set, data) in enumerate(about["where"]):
        predictions[backbone, test_set, data] = Predictions(
            tensors[f"{number}.classes"], tensors[f"{number}.confidence"]
        )
    return predictions


def read_record(path: Path) -> CellRecord:
    """Return the record in a file, and leave the file as it is.

    Raises:
        ValueError: the file is damaged, or belongs to another cell.
        CompatbenchError: a link, or something else, is in its place.
    """
    record = unseal(require(path).read_bytes())
    if record.key != path.stem:
        raise ValueError("the key is another cell's")
    return record


def _inode(folder: Path) -> int | None:
    """Return the number that identifies a folder on its disk; None if it does not exist."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _seal(record: CellRecord) -> bytes:
    """Return a record as JSON, whose first field is the checksum of all that follows."""
    rest = record.model_dump_json(indent=1).encode().removeprefix(b"{\n") + b"\n"
    return _checksum_line(rest) + rest


def unseal(content: bytes) -> CellRecord:
    """Return the record in a file's bytes; raise ValueError if they are not as written."""
    length = len(_checksum_line(b""))
    line = content[:length]
    rest = content[length:]
    if line != _checksum_line(rest):
        raise ValueError("its checksum does not agree with its content")
    return CellRecord.model_validate_json(b"{\n" + rest)


def _checksum_line(rest: bytes) -> bytes:
    return f'{{\n "sha256": "{sha256_bytes(rest)}",\n'.encode()
