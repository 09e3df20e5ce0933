"""Frozen image features and tokens, computed once and kept in a content-addressed cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock
from torch import Tensor

from compatbench.data.cache_files import FEATURES as FOLDER
from compatbench.data.cache_files import describe_entry, read_entry, write_entry
from compatbench.data.images import Sample
from compatbench.data.task import Task
from compatbench.data.views import View
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.hashes import sha256_json

BATCH = 64
PART = 4 * BATCH  # images in an entry of tokens; 155 MB of them at ViT-B/16
# Threads that read and decode images while an accelerator computes. On a CPU, where the
# backbone takes longer than any image, more than one would only wait for each other.
DECODERS = 4
WHOLE = 0.5  # a draw of at least this share of a split has the whole split encoded
MOST_IN_MEMORY = 512 * 2**20  # bytes of recently used entries that a process keeps

# Called with the number of images encoded so far, and of all.
OnEncoded = Callable[[int, int], object]


class ImageEncoder(Protocol):
    """What the cache needs of a backbone; see ``compatbench.backbone.Backbone``."""

    name: str
    card: Any
    weights_key: str
    device: torch.device
    dtype: torch.dtype
    embed_dim: Any
    preprocess: Any
    encode_images: Any

    @property
    def preprocess_settings(self) -> dict[str, Any]: ...


class FeatureCache:
    """Image features on disk, shared by methods, seeds and processes.

    An entry is named by the hash of everything that decides it: the backbone's
    weights and preprocessing, the images, and the view. It is written atomically,
    has a checksum, and is computed again if it is damaged. Of several processes that
    need the same entry, one computes it and the others wait.
    """

    def __init__(self, folder: Path, on_encoded: OnEncoded = lambda done, total: None) -> None:
        self.folder = folder / FOLDER
        self.on_encoded = on_encoded
        self._memory: dict[str, Tensor] = {}

    def features(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        view: View | None = None,
        split: Sequence[Sample] | None = None,
    ) -> Tensor:
        """Features of samples under a view, not normalised, ``[samples, e]``, float32.

        Args:
            split: where the samples were drawn from. Draws that are a large part of it share
                the features of the whole split.

        Raises:
            CompatbenchError: an image cannot be read, or the cache cannot be written.
        """
        view = view or View()
        encoded, rows = _cover(samples, split)
        key = _key(backbone, task, encoded, view, None)
        if key not in self._memory:
            entry = self._entry(backbone, task, encoded, view, None)
            self._remember(key, entry.to(backbone.device))
        features = self._memory[key]
        return features if rows is None else features[rows.to(features.device)]

    def tokens(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        wanted: Any,
        view: View | None = None,
        split: Sequence[Sample] | None = None,
    ) -> StoredRows:
        """What a classifier takes for samples instead of features; it stays on disk.

        Args:
            wanted: what to compute, as ``encode_images`` takes it: an ``ImageInput``.
            split: as above.

        Raises:
            NotTransferable: the backbone's image tower cannot give it.
            CompatbenchError: as above.
        """
        view = view or View()
        encoded, rows = _cover(samples, split)
        parts = [
            self._entry(backbone, task, encoded[i : i + PART], view, wanted)
            for i in range(0, len(encoded), PART)
        ]
        if rows is None:
            rows = torch.arange(len(encoded))
        return StoredRows(parts, PART, rows, backbone.device)

    def _entry(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        view: View,
        wanted: Any,
    ) -> Tensor:
        """An entry, computed if it is missing; memory-mapped if it was read."""
        key = _key(backbone, task, samples, view, wanted)
        path = self.folder / key[:2] / f"{key}.safetensors"
        entry = _read(path)
        if entry is None:
            with _locked(path):
                # Another process may have computed it while this one waited.
                entry = _read(path, warn=False)
                if entry is None:
                    entry = self._encode(backbone, task, samples, view, wanted)
                    about = describe_entry(backbone.name, task.name, len(samples), view.number)
                    write_entry(path, entry, about)
                    if wanted is not None:
                        entry = _read(path)  # so that the computed tensor can be freed
        assert entry is not None
        return entry

    def _remember(self, key: str, features: Tensor) -> None:
        self._memory[key] = features
        held = sum(t.nbytes for t in self._memory.values())
        while held > MOST_IN_MEMORY and len(self._memory) > 1:
            held -= self._memory.pop(next(iter(self._memory))).nbytes

    @torch.no_grad()
    def _encode(
        self,
        backbone: ImageEncoder,
        task: Task,
        samples: Sequence[Sample],
        view: View,
        wanted: Any,
    ) -> Tensor:
        """Encodes batch by batch: at most two batches of images are in memory."""
        if not samples:
            return torch.zeros(0, backbone.embed_dim)
        parts: list[Tensor] = []
        done = 0
        for images in _batches(backbone, task, samples, view):
            parts.append(backbone.encode_images(images, *([wanted] if wanted else [])).cpu())
            done += len(images)
            self.on_encoded(done, len(samples))
        return torch.cat(parts)


class StoredRows:
    """Rows of memory-mapped entries, read on demand.

    Args:
        parts: the entries, ``[size, ...]`` each, the last perhaps shorter.
        rows: which rows of the entries, in which order, ``[N]``.
        device: where the rows are returned.
    """

    def __init__(
        self, parts: Sequence[Tensor], size: int, rows: Tensor, device: torch.device
    ) -> None:
        self._parts = parts
        self._size = size
        self._rows = rows
        self._device = device

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        """The rows of an index ``[n]``, ``[n, ...]``."""
        size = self._size
        rows = [self._parts[i // size][i % size] for i in self._rows[index.cpu()].tolist()]
        return torch.stack(rows).to(self._device)

    def batches(self) -> Iterator[Tensor]:
        """All rows in order, a batch at a time."""
        for index in torch.arange(len(self)).split(BATCH):
            yield self[index]


def _cover(
    samples: Sequence[Sample], split: Sequence[Sample] | None
) -> tuple[Sequence[Sample], Tensor | None]:
    """What to encode for samples, and their rows in it if it is more than the samples."""
    if split is None or len(samples) < WHOLE * len(split):
        return samples, None
    places = {sample.id: i for i, sample in enumerate(split)}
    return split, torch.tensor([places[sample.id] for sample in samples], dtype=torch.long)


def _batches(
    backbone: ImageEncoder, task: Task, samples: Sequence[Sample], view: View
) -> Iterator[Tensor]:
    """Preprocessed batches ``[batch, 3, H, W]``; the next is decoded while one is used."""
    size = backbone.preprocess_settings["size"]
    side = size if isinstance(size, int) else min(size)

    def load(sample: Sample) -> Tensor:
        image = view.apply(task.source.image(sample), sample.id, side)
        return backbone.preprocess(image)

    with ThreadPoolExecutor(1 if backbone.device.type == "cpu" else DECODERS) as pool:
        chunks = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
        following = [pool.submit(load, sample) for sample in chunks[0]]
        for chunk in [*chunks[1:], ()]:
            current, following = following, [pool.submit(load, sample) for sample in chunk]
            yield torch.stack([future.result() for future in current])


def _locked(path: Path) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        raise CompatbenchError(
            f"cannot write the feature cache {path.parent}: {error.strerror}; "
            "set COMPATBENCH_CACHE to a folder that can be written"
        ) from None
    return lock


def _key(
    backbone: ImageEncoder,
    task: Task,
    samples: Sequence[Sample],
    view: View,
    wanted: Any,
) -> str:
    return sha256_json(
        [
            backbone.weights_key,
            backbone.card.config,
            backbone.preprocess_settings,
            str(backbone.dtype),
            task.source.fingerprint(samples),
            view.settings,
            [wanted.kind, wanted.block] if wanted else ["features", 0],
            ENGINE_VERSION,
        ]
    )


def _read(path: Path, warn: bool = True) -> Tensor | None:
    """The entry's features, or None if it is missing or damaged."""
    if not path.is_file():
        return None
    features = read_entry(path)
    if features is None and warn:
        warnings.warn(f"{path} is damaged and is computed again", CompatbenchWarning, stacklevel=2)
    return features
