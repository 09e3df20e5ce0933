"""What a stored index is worth after an upgrade: retrieval over a gallery of the old model.

The gallery is what the source made of test images; queries are the target's, of texts and of
images. An image is relevant to a query if its class has the query's name. No card of a task has
captions, so texts are class names in the task's first template.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone, load_backbone
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import SuiteCard, backbone_cards, select_names, suite_tasks
from compatbench.data.encoding import Images
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.images import Sample, View
from compatbench.data.task import Task, load_task
from compatbench.engine.cell import provenance
from compatbench.engine.execute.compute import resolve_device
from compatbench.errors import CompatbenchError
from compatbench.results.measures import upgrade_pairs
from compatbench.results.retrieval import CEILING, COLUMNS, FIGURES, OLD, POOLED, write_retrieval
from compatbench.studies.study import read_suite
from compatbench.transfer.feature_maps import LEAST_PAIRS, WAYS, FeatureMap, Pair, fit_map
from compatbench.transfer.words import WordFeatures

PAIRS, SEEDS = (64, 256, 1024), (1, 2, 3)
MOST_QUERIES = 2000  # images of a gallery that are asked for, evenly over it
BLOCK = 256  # queries that are ranked together
TIMED = 256  # images that are encoded to say what encoding costs
TIMED_VECTORS = 1 << 17


@dataclass(frozen=True)
class Retrieval:
    """Recall and precision of galleries by way, and what the ways cost.

    Attributes:
        frame: a row per upgrade, gallery, kind of queries, way and number of pairs, the mean over
            ``seeds`` draws of pairs. ``recall@k`` is the share of queries with a relevant image
            among the first k, ``map`` the mean average precision of the whole ranking, in percent.
        about: the suite, and CPU seconds per million vectors of encoding and of mapping.
    """

    suite: str
    frame: pd.DataFrame
    about: dict[str, Any]

    def __repr__(self) -> str:
        return f"<Retrieval of suite '{self.suite}': {len(self.frame):,} rows>"

    def save(self, out: str | Path = ".") -> Path:
        """Writes ``results/retrieval/<suite>.csv`` and the JSON beside it."""
        return write_retrieval(Path(out), self.suite, self.frame, self.about)


def retrieve(
    suite: str | SuiteCard = "mini",
    source: str | None = None,
    targets: str | Sequence[str] | None = None,
    *,
    tasks: str | Sequence[str] = "all",
    pairs: Sequence[int] = PAIRS,
    seeds: Sequence[int] = SEEDS,
    device: str = "auto",
) -> Retrieval:
    """Measures retrieval over galleries of an old model, brought along in every way.

    Args:
        suite: gives the tasks, whose test images are the galleries: each by itself, and all.
        source, targets: the old model and the new ones; by default those of the suite's first
            source. Names, or comma lists of them.
        tasks: of the suite.
        pairs: numbers of images that maps are fitted on, drawn from the training images, without
            labels.
        seeds: of these draws.

    Raises:
        CompatbenchError: an unknown name, or weights or images that are not on this machine.
    """
    card, device = read_suite(suite), resolve_device(device)
    upgrades = upgrade_pairs(card.upgrades)
    source = backbone_cards.resolve(source or upgrades[0][0])
    if targets is None:
        targets = [new for old, new in upgrades if old == source]
    targets = backbone_cards.resolve_all(targets)
    if not targets or source in targets:
        raise CompatbenchError(f"no upgrade from '{source}' to another model; give --target")
    if not pairs or min(pairs) < LEAST_PAIRS or not seeds:
        raise CompatbenchError(f"--pairs: give numbers of at least {LEAST_PAIRS}, and a seed")
    chosen = select_names(tasks, suite_tasks(card), f"task of suite '{card.name}'")
    study = _Galleries([load_task(name) for name in chosen], sorted(set(pairs)), tuple(seeds))
    if (most := sum(len(task.split("train")) for task in study.tasks)) < max(pairs):
        raise CompatbenchError(
            f"--pairs {max(pairs)}: the tasks have {most:,} training images; give {most} or less"
        )
    old, rows = study.see(load_backbone(source, device)), []
    costs = {source: old.cost}
    for name in targets:
        new = study.see(load_backbone(name, device))
        costs[name] = new.cost
        rows += [{"source": source, "target": name, **row} for row in study.compare(old, new)]
    about = {
        "command": _command(card, source, targets, tasks, pairs, seeds),
        "cpu_seconds_per_million": {"encoded": costs, "mapped": _time_map(old.images.shape[1])},
        "processor": provenance()["processor"],
        "tasks": list(chosen),
    }
    return Retrieval(card.name, pd.DataFrame(rows, columns=pd.Index(COLUMNS)), about)


@dataclass(frozen=True)
class _Seen:
    """All that a model makes of the tasks; features are normalised, in double precision."""

    images: Tensor  # test images of all tasks, ``[N, e]``
    texts: Tensor  # classes of all tasks, ``[C, e]``
    pool: Tensor  # the training images that pairs are drawn from, ``[P, e]``
    words: Tensor  # ``[V, e]``
    cost: float  # CPU seconds to encode a million images


@dataclass(frozen=True)
class _Galleries:
    tasks: Sequence[Task]
    pairs: Sequence[int]
    seeds: Sequence[int]

    @cached_property
    def classes(self) -> Tensor:
        """The class of each test image of all tasks, ``[N]``; one name is one class."""
        labels = [s.label + start for start, t in self._starts for s in t.split("test")]
        return self.names[torch.tensor(labels)]

    @cached_property
    def names(self) -> Tensor:
        """The class of each text of all tasks, ``[C]``."""
        names = [name.casefold() for task in self.tasks for name in task.labels.names]
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        return torch.tensor([numbers[name] for name in names])

    @property
    def _starts(self) -> list[tuple[int, Task]]:
        sizes = [0, *(len(task.labels) for task in self.tasks)]
        return [(sum(sizes[: i + 1]), task) for i, task in enumerate(self.tasks)]

    @cached_property
    def pool(self) -> list[tuple[Task, list[Sample]]]:
        """Training images of all tasks, four times as many as the most pairs, by task."""
        every = [(task, sample) for task in self.tasks for sample in task.split("train")]
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
        drawn = [every[i] for i in order[: 4 * max(self.pairs)].tolist()]
        return [(task, [one for of, one in drawn if of is task]) for task in self.tasks]

    def see(self, backbone: Backbone) -> _Seen:
        """Encodes what is asked of a model; images through the feature cache."""
        cache, words = FeatureCache(default_cache_folder()), WordFeatures(default_cache_folder())

        def encode(task: Task, samples: Sequence[Sample], split: str) -> Tensor:
            return cache.features(backbone, task, samples, split=task.split(split)).cpu()

        def join(parts: Sequence[Tensor]) -> Tensor:
            return F.normalize(torch.cat([*parts]).cpu().double(), dim=-1)

        first, start = self.tasks[0], time.process_time()
        timed = Images(backbone, first, first.split("test")[:TIMED], View())
        per_image = (cache.encode([timed]), time.process_time() - start)[1]
        return _Seen(
            images=join([encode(task, task.split("test"), "test") for task in self.tasks]),
            texts=join([backbone.zero_shot(task.labels) for task in self.tasks]),
            pool=join([encode(task, own, "train") for task, own in self.pool if own]),
            words=words.of(backbone).cpu().double(),
            cost=round(1e6 * per_image / len(timed.samples), 1),
        )

    def compare(self, old: _Seen, new: _Seen) -> list[dict[str, Any]]:
        """The rows of one upgrade."""
        rows = self._measure(OLD, old.images, old)
        if old.images.shape == new.images.shape:
            rows += self._measure("copied", old.images, new)
        words = old.words, new.words
        rows += self._measure("words", fit_map("words", words)(old.images), new)
        for way in (way for way, needs in WAYS.items() if "images" in needs):
            for count in self.pairs:
                measured = [
                    self._measure(way, self._fit(way, old, new, count, seed)(old.images), new)
                    for seed in self.seeds
                ]
                for same in zip(*measured, strict=True):
                    means = {name: sum(row[name] for row in same) / len(same) for name in FIGURES}
                    rows.append({**same[0], **means, "pairs": count, "seeds": len(same)})
        return rows + self._measure(CEILING, new.images, new)

    def _fit(self, way: str, old: _Seen, new: _Seen, count: int, seed: int) -> FeatureMap:
        order = torch.randperm(len(old.pool), generator=torch.Generator().manual_seed(seed))
        rows = order[:count]
        images: Pair = old.pool[rows], new.pool[rows]
        return fit_map(way, (old.words, new.words), images)

    def _measure(self, way: str, gallery: Tensor, asking: _Seen) -> list[dict[str, Any]]:
        """Every gallery, each task's and the pooled one, by texts and by images."""
        sizes = [len(task.split("test")) for task in self.tasks]
        parts = [
            (task.name, slice(sum(sizes[:i]), sum(sizes[: i + 1])), slice(c, c + len(task.labels)))
            for i, (c, task) in enumerate(self._starts)
        ]
        rows = []
        for name, images, texts in [*parts, (POOLED, slice(None), slice(None))]:
            own, kinds = gallery[images], self.classes[images]
            asked = torch.arange(len(own))[:: -(-len(own) // MOST_QUERIES)]
            for queries, features, classes, itself in (
                ("texts", asking.texts[texts], self.names[texts], None),
                ("images", asking.images[images][asked], kinds[asked], asked),
            ):
                found = rank_gallery(features, own, classes, kinds, itself)
                row = {"gallery": name, "queries": queries, "images": len(own), "asked": len(found)}
                row |= {"way": way, "pairs": 0, "seeds": 1}
                rows.append(row | dict(zip(FIGURES, (100 * found.mean(0)).tolist(), strict=True)))
        return rows


def rank_gallery(
    queries: Tensor, gallery: Tensor, asked: Tensor, classes: Tensor, itself: Tensor | None = None
) -> Tensor:
    """Recall at 1, 5 and 10 and the average precision of each query, 0 to 1, ``[q, 4]``.

    A query without any relevant image is left out.

    Args:
        queries, gallery: normalised features ``[Q, e]`` and ``[n, e]``.
        asked, classes: the class of each, ``[Q]`` and ``[n]``.
        itself: the place of each query in the gallery, where it is not looked for, ``[Q]``.
    """
    found, places = [], torch.arange(1, len(gallery) + 1, dtype=torch.float64)
    for rows in torch.arange(len(queries)).split(BLOCK):
        similar = queries[rows] @ gallery.T
        relevant = asked[rows, None] == classes
        if itself is not None:
            own = itself[rows, None]
            similar.scatter_(1, own, -torch.inf)
            relevant.scatter_(1, own, False)
        some = relevant.any(1)
        order = similar[some].argsort(dim=1, descending=True, stable=True)
        hits = relevant[some].gather(1, order)
        precision = hits.cumsum(1) / places
        average = (precision * hits).sum(1) / hits.sum(1)
        recall = [hits[:, :k].any(1).double() for k in (1, 5, 10)]
        found.append(torch.stack([*recall, average], dim=1))
    return torch.cat(found)


def _time_map(width: int) -> float:
    """CPU seconds to map a million vectors of this width, in float32."""
    vectors, found = torch.randn(TIMED_VECTORS, width), FeatureMap(torch.eye(width))
    start = time.process_time()
    for block in vectors.split(4096):
        found(block)
    return round(1e6 * (time.process_time() - start) / TIMED_VECTORS, 2)


def _command(
    card: SuiteCard,
    source: str,
    targets: Sequence[str],
    tasks: str | Sequence[str],
    pairs: Sequence[int],
    seeds: Sequence[int],
) -> str:
    """The command line that measures the same; options at their defaults are left out."""
    chosen = tasks if isinstance(tasks, str) else ",".join(tasks)
    given = {"target": ",".join(targets)} | ({} if chosen == "all" else {"tasks": chosen})
    for name, values, usual in (("pairs", pairs, PAIRS), ("seeds", seeds, SEEDS)):
        if tuple(values) != usual:
            given[name] = ",".join(map(str, values))
    options = " ".join(f"--{name} {value}" for name, value in given.items())
    return f"compatbench retrieve --suite {card.name} --source {source} {options}"
