"""Frozen image features, computed once and kept in a content-addressed cache."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import compatbench.views
from compatbench.backbone import Backbone
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files import sha256_bytes, sha256_json, write_atomic_with
from compatbench.source import hash_code
from compatbench.task import Sample, Task
from compatbench.views import View

BATCH = 128
MOST_IN_MEMORY = 512 * 2**20  # bytes; what a process keeps of the entries it used last


def default_cache_folder() -> Path:
    """``$COMPATBENCH_CACHE``, or ``compatbench`` in the user's cache folder."""
    if folder := os.environ.get("COMPATBENCH_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "compatbench"


class FeatureCache:
    """Image features on disk, shared by methods, seeds and processes.

    An entry is named by the hash of everything that decides it: the backbone's
    weights and preprocessing, the images, and the view. It is written atomically,
    its bytes carry a checksum, and a damaged entry is computed again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "features"
        self._memory: dict[str, Tensor] = {}

    def features(
        self, backbone: Backbone, task: Task, samples: Sequence[Sample], view: View | None = None
    ) -> Tensor:
        """Features of samples under a view, not normalised, ``[samples, e]``, float32."""
        view = view or View()
        key = self._key(backbone, task, samples, view)
        if key not in self._memory:
            path = self.folder / key[:2] / f"{key}.safetensors"
            features = _read(path)
            if features is None:
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    lock = FileLock(path.with_suffix(".lock"))
                    lock.acquire()
                except OSError as error:
                    raise CompatbenchError(
                        f"cannot write the feature cache {self.folder}: {error.strerror}; "
                        "set COMPATBENCH_CACHE to a folder that can be written"
                    ) from None
                with lock:
                    # Another process may have computed it while this one waited.
                    features = _read(path)
                    if features is None:
                        features = _encode(backbone, task, samples, view)
                        _write(path, features)
            self._remember(key, features.to(backbone.device))
        return self._memory[key]

    def _remember(self, key: str, features: Tensor) -> None:
        self._memory[key] = features
        held = sum(t.numel() * t.element_size() for t in self._memory.values())
        while held > MOST_IN_MEMORY and len(self._memory) > 1:
            dropped = self._memory.pop(next(iter(self._memory)))
            held -= dropped.numel() * dropped.element_size()

    @staticmethod
    def _key(backbone: Backbone, task: Task, samples: Sequence[Sample], view: View) -> str:
        code = [hash_code(Path(__file__)), hash_code(Path(compatbench.views.__file__))]
        return sha256_json(
            [
                backbone.card.sha256,
                backbone.card.config,
                backbone.preprocess_settings,
                task.source.fingerprint(),
                [sample.id for sample in samples],
                view.settings,
                code,
            ]
        )


@torch.no_grad()
def _encode(backbone: Backbone, task: Task, samples: Sequence[Sample], view: View) -> Tensor:
    size = backbone.preprocess_settings["size"]
    side = size if isinstance(size, int) else min(size)
    parts = []
    for start in range(0, len(samples), BATCH):
        images = [
            backbone.preprocess(view.apply(task.source.image(sample), sample.id, side))
            for sample in samples[start : start + BATCH]
        ]
        parts.append(backbone.encode_images(torch.stack(images)).cpu())  # type: ignore[arg-type]
    return torch.cat(parts) if parts else torch.zeros(0, backbone.embed_dim)


def _checksum(features: Tensor) -> str:
    return sha256_bytes(features.contiguous().numpy().tobytes())


def _write(path: Path, features: Tensor) -> None:
    tensors = {"features": features.contiguous()}
    metadata = {"sha256": _checksum(features)}
    write_atomic_with(path, lambda name: save_file(tensors, name, metadata))


def _read(path: Path) -> Tensor | None:
    """The entry's features, or None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            features: Tensor = file.get_tensor("features")
            if (file.metadata() or {}).get("sha256") == _checksum(features):
                return features
    except (SafetensorError, OSError, ValueError):
        pass
    warnings.warn(f"{path} is damaged and is computed again", CompatbenchWarning, stacklevel=2)
    return None
