"""Retrieval over galleries of an old model: the questions, and what of them is found.

A gallery is what the source made of test images. Queries are the target's: *texts*, class names in
the task's first template, and *images*, for which an image is relevant if its class has the
query's name; and *captions*, where a task has them, for which only the caption's image is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.words import WordFeatures
from compatbench.data.encoding import Images
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.images.source import Sample
from compatbench.data.images.views import View
from compatbench.data.task import Task
from compatbench.extras.indexes.index_maps import WAYS, Vectors, fit_map
from compatbench.extras.indexes.rankings import ByClass, measure, search
from compatbench.extras.indexes.retrieval_files import CEILING, FIGURES, OLD, POOLED

# Queries of a gallery, evenly over it: images, and captions, of which none is left out of the
# usual test sets (COCO's has 25,010).
MOST_QUERIES = {"images": 2000, "captions": 30_000}
BLOCK = 256  # queries that are ranked together
TIMED = 256  # images that are encoded to say what encoding costs


@dataclass(frozen=True)
class Seen:
    """All that a model makes of the tasks; features are normalised, in double precision."""

    images: Vectors  # test images of all tasks, ``[N, e]``
    texts: Vectors  # classes of all tasks, ``[C, e]``
    captions: Vectors  # of test images of all tasks, ``[K, e]``
    pool: Vectors  # the training images that pairs are drawn from, ``[P, e]``
    words: Vectors  # ``[V, e]``


@dataclass(frozen=True)
class Question:
    """What is asked of a gallery; rows are those of ``Seen``."""

    gallery: str  # a task's name, or ``POOLED``
    queries: str  # of ``QUERIES``
    images: NDArray[Any]  # rows of the gallery's images, ``[n]``
    kinds: NDArray[Any]  # what each image is: its class, or for captions itself, ``[n]``
    asking: NDArray[Any]  # rows of the queries, ``[q]``
    wanted: NDArray[Any]  # the kind of image that each asks for, ``[q]``
    itself: NDArray[Any] | None = None  # the place of each query in the gallery, ``[q]``


@dataclass(frozen=True)
class Galleries:
    """The test images of tasks, each task's and all together.

    Attributes:
        pairs: numbers of images that maps are fitted on, drawn from the training images.
        seeds: of these draws.
    """

    tasks: Sequence[Task]
    pairs: Sequence[int] = ()
    seeds: Sequence[int] = ()

    @cached_property
    def captions(self) -> list[tuple[int, str]]:
        """Every caption, with the row of its image among those of all tasks."""
        texts = ((task.find_captions(), task.split("test")) for task in self.tasks)
        of_images = (known.get(sample.id, ()) for known, samples in texts for sample in samples)
        return [(row, text) for row, captions in enumerate(of_images) for text in captions]

    @cached_property
    def questions(self) -> list[Question]:
        """All that is asked, gallery by gallery."""
        tasks = list(enumerate(self.tasks))
        tests = [(i, task.labels.names, one) for i, task in tasks for one in task.split("test")]
        names = [(i, name.casefold()) for i, task in tasks for name in task.labels.names]
        numbers = {name: i for i, name in enumerate(dict.fromkeys(name for _, name in names))}
        kinds = np.array(
            [
                -1 if sample.label < 0 else numbers[classes[sample.label].casefold()]
                for _, classes, sample in tests
            ]
        )
        owners = np.array([i for i, _, _ in tests])
        text_owners = np.array([i for i, _ in names], dtype=np.intp)
        text_kinds = np.array([numbers[name] for _, name in names], dtype=np.intp)
        homes = np.array([row for row, _ in self.captions], dtype=np.intp)
        captioned = np.isin(owners, owners[homes])
        questions = []
        for number, name in enumerate([*(task.name for task in self.tasks), POOLED]):
            here, texts, captions = (
                (of == number) | (number == len(self.tasks))
                for of in (owners, text_owners, owners[homes])
            )
            labelled = np.flatnonzero(here & (kinds >= 0))
            if len(labelled):
                known, asking = kinds[labelled], np.flatnonzero(texts)
                wanted = text_kinds[asking]
                questions.append(Question(name, "texts", labelled, known, asking, wanted))
                asked = _thin(np.arange(len(labelled)), "images")
                asking, wanted = labelled[asked], known[asked]
                questions.append(Question(name, "images", labelled, known, asking, wanted, asked))
            if captions.any():
                images = np.flatnonzero(here & captioned)
                asking = _thin(np.flatnonzero(captions), "captions")
                wanted = homes[asking]
                questions.append(Question(name, "captions", images, images, asking, wanted))
        return questions

    @cached_property
    def pool(self) -> list[tuple[Task, list[Sample]]]:
        """Training images of all tasks, four times as many as the most pairs, by task."""
        every = [(task, sample) for task in self.tasks for sample in task.split("train")]
        order = _shuffle(len(every), 0)[: 4 * max(self.pairs, default=0)]
        drawn = [every[i] for i in order.tolist()]
        return [(task, [image for of, image in drawn if of is task]) for task in self.tasks]

    def see(self, backbone: Backbone, folder: Path) -> Seen:
        """Encodes what is asked of a model; images and words through the cache in a folder."""
        cache, words = FeatureCache(folder), WordFeatures(folder)

        def encode(task: Task, samples: Sequence[Sample], split: str) -> Tensor:
            return cache.features(backbone, task, samples, split=task.split(split)).cpu()

        def join(parts: Sequence[Tensor]) -> Vectors:
            whole = torch.cat([*parts]) if parts else torch.empty(0, backbone.embed_dim)
            return torch.nn.functional.normalize(whole.cpu().double(), dim=-1).numpy()

        labels = [task.labels for task in self.tasks if len(task.labels)]
        captions = backbone.shorten([text for _, text in self.captions])
        return Seen(
            images=join([encode(task, task.split("test"), "test") for task in self.tasks]),
            texts=join([backbone.zero_shot(of_task) for of_task in labels]),
            captions=join([backbone.encode_texts(captions)] if captions else []),
            pool=join([encode(task, pooled, "train") for task, pooled in self.pool if pooled]),
            words=words.of(backbone).cpu().double().numpy(),
        )

    def time_encoding(self, backbone: Backbone, folder: Path) -> float:
        """CPU seconds to encode a million images."""
        first = self.tasks[0]
        timed = Images(backbone, first, first.split("test")[:TIMED], View())
        start = time.process_time()
        FeatureCache(folder).encode([timed])
        return round(1e6 * (time.process_time() - start) / len(timed.samples), 1)

    def compare(self, old: Seen, new: Seen) -> list[dict[str, Any]]:
        """The rows of one upgrade, without the names of its models."""
        rows = self._measure(OLD, old.images, old)
        if old.images.shape == new.images.shape:
            rows += self._measure("copied", old.images, new)
        words = old.words, new.words
        rows += self._measure("words", fit_map("words", words)(old.images), new)
        ways = [way for way, needs in WAYS.items() if "images" in needs]
        for way, count in product(ways, self.pairs):
            measured = []
            for seed in self.seeds:
                drawn = _shuffle(len(old.pool), seed)[:count]
                images = old.pool[drawn], new.pool[drawn]
                gallery = fit_map(way, words, images)(old.images)
                measured.append(self._measure(way, gallery, new))
            for same in zip(*measured, strict=True):
                means = {name: sum(row[name] for row in same) / len(same) for name in FIGURES}
                rows.append({**same[0], **means, "pairs": count, "seeds": len(same)})
        return rows + self._measure(CEILING, new.images, new)

    def _measure(self, way: str, gallery: Vectors, new: Seen) -> list[dict[str, Any]]:
        """Every question, put by the model of the queries."""
        rows = []
        for each in self.questions:
            asking, images = getattr(new, each.queries)[each.asking], gallery[each.images]
            ranked = rank_gallery(asking, images, each.wanted, each.kinds, each.itself)
            row = {"gallery": each.gallery, "queries": each.queries, "images": len(images)}
            row |= {"asked": len(ranked), "way": way, "pairs": 0, "seeds": 1}
            rows.append(row | dict(zip(FIGURES, (100 * ranked.mean(0)).tolist(), strict=True)))
        return rows


def _thin(rows: NDArray[np.intp], queries: str) -> NDArray[np.intp]:
    return rows[:: -(-len(rows) // MOST_QUERIES[queries])]


def _shuffle(count: int, seed: int) -> NDArray[np.intp]:
    """Numbers below ``count`` in an order that is torch's, as it was in results of old."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()


def rank_gallery(
    queries: Vectors,
    gallery: Vectors,
    asked: NDArray[Any],
    classes: NDArray[Any],
    itself: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """``FIGURES`` of each query over the whole ranking, 0 to 1, ``[q, 4]``.

    A query without any relevant image is left out.

    Args:
        queries, gallery: normalised features ``[Q, e]`` and ``[n, e]``.
        asked, classes: the class of each, ``[Q]`` and ``[n]``.
        itself: the place of each query in the gallery, where it is not looked for, ``[Q]``.
    """
    parts, every = [np.empty((0, len(FIGURES)))], np.arange(len(gallery))
    for first in range(0, len(queries), BLOCK):
        rows = slice(first, first + BLOCK)
        places = None if itself is None else itself[rows]
        ranked = search(
            queries[rows], lambda reach: [reach(every, gallery)], len(every), places
        ).rows
        figures = measure(ranked, ByClass(asked[rows], classes, places))
        parts.append(np.stack([figures[name] for name in FIGURES.values()], axis=1))
    joined = np.concatenate(parts)
    return joined[~np.isnan(joined).any(axis=1)]
