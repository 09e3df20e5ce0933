"""A stored index of image embeddings written anew for another backbone; no image is encoded again.

The few images that a way may need are encoded by both models, to find the map.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.load.names import read_backbone
from compatbench.backbone.words import WordFeatures
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import backbone_cards
from compatbench.data.encoding import BATCH
from compatbench.data.images.source import ImageSource, Sample
from compatbench.data.layouts.recognise import list_images
from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.index_maps import (
    LEAST_PAIRS,
    WAYS,
    FeatureMap,
    Pair,
    fit_map,
    judge_map,
)
from compatbench.extras.indexes.retrieval_files import find_expected
from compatbench.extras.indexes.vector_files import (
    SUFFIXES,
    VectorFile,
    check_lengths,
    open_vectors,
    read_pair,
)
from compatbench.files.atomic import open_atomic, write_atomic
from compatbench.files.kinds import require_new

MOST_IMAGES = 2048  # of a folder that are encoded, evenly over its names
Report = Callable[[str], object]
Vectors = tuple[NDArray[Any], NDArray[Any]] | tuple[str | Path, str | Path]


@dataclass(frozen=True)
class PortedIndex:
    """An index in the target's space, and what is known of it; also a JSON file beside it.

    Attributes:
        path: of the index; of a copied one the index as it was given.
        source, target, way: the two models, and how the vectors were mapped.
        images: that the map was fitted on, encoded by both models; 0 for ways that need none.
        rows, width, new_width, dtype: of the vectors.
        cosine, residual: how near the map comes to the target (``judge_map``); None if copied.
        expected: the recall to expect and where it was measured; empty if it never was.
    """

    path: Path
    source: str
    target: str
    way: str
    images: int
    rows: int
    width: int
    new_width: int
    dtype: str
    cosine: float | None = None
    residual: float | None = None
    expected: dict[str, Any] | None = None
    seconds: float = 0.0  # of reading, mapping and writing

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON values; what differs from run to run is left out."""
        left_out = ("path", "seconds")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def port_index(
    index: str | Path,
    source: str,
    target: str,
    *,
    way: str | None = None,
    images: str | Path | Vectors | None = None,
    out: str | Path | None = None,
    column: str | None = None,
    device: str = "auto",
    progress: Report = lambda line: None,
) -> PortedIndex:
    """Writes a stored index of image embeddings for another backbone; nothing is encoded again.

    The index is read and written block by block, in memory that does not grow with it. Numbers
    keep their type, rows their order, vectors their length; ids and other columns are kept. A
    file appears whole or not at all, with its facts in a JSON beside it.

    Args:
        index: a ``.npy`` or safetensors matrix, a parquet file with a column of lists, or a flat
            Faiss index.
        source, target: the model that made the index, and the one that queries will come from.
        way: ``words`` (nothing but the two models), ``images``, ``low-rank``, ``ridge`` (the two
            models' vectors of some images), or ``copied``, which writes nothing. By default
            ``ridge`` with images and ``words`` without.
        images: a folder of images, which both models encode; or their vectors on both, two
            matrices ``[n, e]`` or files like an index, with the same images in the same rows.
        out: the file to write; by default INDEX-for-MODEL in this folder.
        column: of the vectors, where a parquet file has several.

    Returns:
        Where the index is, how near the map comes to the new model, and the recall to expect, if
        this upgrade was measured.

    Raises:
        CompatbenchError: a file that is damaged, of another kind or another width than the
            source's, a vector that is not finite, an unknown name, too few images, or a file that
            exists.
    """
    path, path_out = Path(index), None if out is None else Path(out)
    if isinstance(images, str):
        images = Path(images)
    source, target = backbone_cards.resolve(source), backbone_cards.resolve(target)
    way = way or ("words" if images is None else "ridge")
    if way not in WAYS:
        raise CompatbenchError(f"there is no way '{way}'; choose from {', '.join(WAYS)}")
    if source == target:
        raise CompatbenchError(f"'{source}' is the old and the new model: there is nothing to port")
    for name in (source, target):
        read_backbone(name)
    if (needed := "images" in WAYS[way]) != (images is not None):
        fix = "give --images FOLDER, or --pairs OLD.npy NEW.npy" if needed else "leave them out"
        raise CompatbenchError(f"'{way}' {'needs' if needed else 'takes no'} images: {fix}")
    vectors, name = open_vectors(path, column), re.sub(r"[^\w.-]+", "-", target)
    path_out = path_out or Path(f"{path.stem}-for-{name}{path.suffix}")
    if way != "copied":
        require_new(path_out)
    if path_out.suffix in SUFFIXES and path_out.suffix != path.suffix in SUFFIXES:
        raise CompatbenchError(
            f"{path_out}: the ported index is of the kind of {path}; let its name end in "
            f"{path.suffix}"
        )
    device, models = resolve_device(device), list[Backbone]()
    if way == "copied" or "words" in WAYS[way] or isinstance(images, Path):
        models = [load_backbone(model, device) for model in (source, target)]
        if vectors.width != models[0].embed_dim:
            raise CompatbenchError(
                f"{path} has vectors of width {vectors.width}, and those of '{source}' have "
                f"{models[0].embed_dim}: give --source the model that made them"
            )
    ported = PortedIndex(
        *(path, source, target, way, 0),
        *(vectors.rows, vectors.width, vectors.width, vectors.dtype.name),
    )
    if way == "copied":
        if (new_width := models[1].embed_dim) != vectors.width:
            raise CompatbenchError(
                f"'{target}' has vectors of width {new_width} and {path} of {vectors.width}: it "
                "cannot be used as it is; port it by words"
            )
        return replace(ported, expected=find_expected(source, target, way, 0))
    words, pairs = _gather(models, way, images, vectors.width, progress)
    to_target, count = fit_map(way, words, pairs), len(pairs[0]) if pairs else 0
    ported = replace(
        ported,
        path=path_out,
        images=count,
        new_width=to_target.matrix.shape[1],
        expected=find_expected(source, target, way, count),
        **judge_map(way, words, pairs),
    )
    start = time.perf_counter()
    stream_index(vectors, to_target, path_out, ported.facts)
    return replace(ported, seconds=time.perf_counter() - start)


def stream_index(
    index: VectorFile, to_target: FeatureMap, out: Path, facts: dict[str, Any]
) -> None:
    """Writes the mapped index and its facts beside it; both stand there whole or not at all."""
    to_target = to_target.in_single()
    largest = np.finfo(index.dtype).max

    def change(block: NDArray[Any], first: int) -> NDArray[Any]:
        vectors = block.astype(np.float32, copy=False)
        mapped = to_target(vectors, check_lengths(index.path, vectors, first))
        if largest < np.finfo(np.float32).max and (np.abs(mapped) > largest).any():
            raise CompatbenchError(
                f"{index.path}: a mapped vector is too long for {index.dtype}; save it as float32"
            )
        return mapped

    with open_atomic(out) as file:
        index.rewrite(file, to_target.matrix.shape[1], change)
        # First, so that no index ever stands there without its facts.
        text = json.dumps(facts, indent=1, ensure_ascii=False)
        write_atomic(out.with_name(f"{out.name}.json"), f"{text}\n".encode())


def _gather(
    models: Sequence[Backbone], way: str, images: Path | Vectors | None, width: int, report: Report
) -> tuple[Pair | None, Pair | None]:
    """What a way needs: features of the words, and of images in an order that is drawn."""
    words = None
    if "words" in WAYS[way]:
        features = WordFeatures(default_cache_folder())
        words = features.of(models[0]).cpu().numpy(), features.of(models[1]).cpu().numpy()
    if images is None:
        return words, None
    if isinstance(images, Path):
        files = list_images(images, MOST_IMAGES)
        old, new = (encode_files(model, images, files, report) for model in models)
    else:
        widths = [width, *(model.embed_dim for model in models[1:])]
        old, new = read_pair(images, "pairs", widths)
    if len(old) < LEAST_PAIRS:
        raise CompatbenchError(
            f"{len(old)} images are too few for '{way}': give {LEAST_PAIRS} or more, and better "
            "some hundreds; 'words' needs none"
        )
    order = torch.randperm(len(old), generator=torch.Generator().manual_seed(0)).numpy()
    return words, (old[order], new[order])


@torch.no_grad()
def encode_files(
    backbone: Backbone, folder: Path, files: Sequence[str], progress: Report
) -> NDArray[Any]:
    """Features of image files, not normalised, ``[n, e]``."""
    samples = [Sample(file, 0) for file in files]
    source, parts = ImageSource(folder, {"test": samples}), []
    for first in range(0, len(samples), BATCH):
        progress(f"{backbone.name}: {first:,} of {len(samples):,} images")
        views = [
            backbone.preprocess(source.image(sample)) for sample in samples[first : first + BATCH]
        ]
        parts.append(backbone.encode_images(torch.stack(views)).cpu())  # type: ignore[arg-type]
    return torch.cat(parts).numpy()
