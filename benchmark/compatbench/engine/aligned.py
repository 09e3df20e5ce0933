"""Runs cells, those of aligned attaching included."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.aligned_cells import AlignedCell
from compatbench.engine.cell import Cell, CellRecord, Record
from compatbench.engine.fit import Worker, describe_cell
from compatbench.engine.locks import locked
from compatbench.engine.predictions import Predictions, Where
from compatbench.engine.store import RunStore
from compatbench.files.hashes import sha256_json
from compatbench.method import Method, Module
from compatbench.transfer.attaching import AlignedMethod
from compatbench.transfer.words import WordFeatures, read_words, save_words, words_hash


class AlignedWorker(Worker):
    """A worker that knows aligned cells, too.

    An aligned cell takes its module from the plain cell's fit, and fits that if need be. Beside
    the modules it leaves the source's word features, so that they can be turned without it.
    """

    def __init__(
        self, store: RunStore, cache: FeatureCache, device: str = "cpu", threads: int = 1
    ) -> None:
        super().__init__(store, cache, device, threads)
        self._words = WordFeatures(cache.folder.parent)

    def _fit(self, cell: Cell, method: Method) -> tuple[CellRecord, Module]:
        if isinstance(cell, AlignedCell):
            return self._borrow(cell, method)
        # An aligned cell may want the same module at the same time.
        path = self.store.folder / "locks" / f"{cell.key}.lock"
        with locked(self.store, path, wait=True):
            return self._read_fit(cell) or super()._fit(cell, method)

    def _borrow(self, cell: AlignedCell, method: Method) -> tuple[CellRecord, Module]:
        """The plain cell's module, with what was measured of it through words before."""
        fitted, module = self._read_fit(cell.plain) or self._fit(cell.plain, method)
        done = self.store.read(cell.key)
        if done is None or done.module != fitted.module:
            done = describe_cell(
                cell,
                status="ok",
                fit_seconds=fitted.fit_seconds,
                parameters=fitted.parameters,
                module_bytes=fitted.module_bytes,
                module=fitted.module,
            )
        return done, module

    def _read_fit(self, cell: Cell) -> tuple[CellRecord, Module] | None:
        record = self.store.read(cell.key)
        module = self.store.read_module(record) if record and record.status == "ok" else None
        return None if record is None or module is None else (record, module)

    def _measure(
        self,
        cell: Cell,
        method: Method,
        module: Module,
        backbone: Backbone,
        test_sets: list[str],
        answers: dict[Where, Predictions],
    ) -> list[Record]:
        if isinstance(cell, AlignedCell):
            source = self._load(cell.source, precision=cell.training.precision)
            words = self._words.of(source)
            self._words.of(backbone)  # encoded before the clock runs
            carry_words(self.store.folder / "modules", source, words)
            method = AlignedMethod(method, words, self._words.of)
        return super()._measure(cell, method, module, backbone, test_sets, answers)


def carry_words(folder: Path, source: Backbone, words: Tensor) -> None:
    """Leaves a source's word features beside the modules that were fitted on it.

    Raises:
        CompatbenchError: the folder cannot be written.
    """
    about = {"source": source.name, "weights": source.weights_key, "dtype": str(source.dtype)}
    path = folder / f"words-{sha256_json([about, words_hash()])[:16]}.safetensors"
    if not path.is_file():
        save_words(path, words, about)


def find_words(module: Path, source: str) -> Tensor | None:
    """The word features of a module's source that lie beside it, or one folder up, ``[V, e]``.

    Raises:
        CompatbenchError: a file of the source's is damaged, or was made from another word list.
    """
    for folder in (module.parent, module.parent.parent):
        for path in sorted(folder.glob("words-*.safetensors")):
            features, about = read_words(path)
            if about.get("source") == source:
                return features
    return None
