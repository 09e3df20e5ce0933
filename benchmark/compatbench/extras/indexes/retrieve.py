"""What a stored index is worth after an upgrade: retrieval over a gallery of the old model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.backbone import load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.load.names import read_backbone
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import (
    SuiteCard,
    backbone_cards,
    select_names,
    suite_cards,
    suite_tasks,
    task_cards,
)
from compatbench.data.task import load_task
from compatbench.engine.cell import provenance
from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.galleries import Galleries, Seen
from compatbench.extras.indexes.index_maps import PAIRS, SEEDS, choose_numbers, time_map
from compatbench.extras.indexes.retrieval_files import COLUMNS, write_retrieval
from compatbench.results.expected import upgrade_pairs


@dataclass(frozen=True)
class Retrieval:
    """Recall and precision of galleries by way, and what the ways cost.

    Attributes:
        frame: a row per upgrade, gallery, kind of queries, way and number of pairs, the mean over
            ``seeds`` draws of pairs. ``recall@k`` is the share of queries with a relevant image
            among the first k, ``map`` the mean average precision of the whole ranking, in percent;
            of captions, which have one relevant image, that is the mean reciprocal rank.
        about: the suite, and CPU seconds per million vectors of encoding and of mapping.
    """

    suite: str
    frame: pd.DataFrame
    about: dict[str, Any]

    def __repr__(self) -> str:
        return f"<Retrieval of suite '{self.suite}': {len(self.frame):,} rows>"

    def save(self, out: str | Path = ".") -> Path:
        """Adds the rows to ``results/retrieval/<suite>.csv``, and the facts to its JSON."""
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
    """Measures what a stored index of image embeddings is worth to a new model.

    The test images of a suite's tasks, encoded by the old model, are the galleries; the new
    model's class names, images and, where a task has them, captions are the queries. The index is
    measured as it is, ported in every way that ``module port`` has, and with all images encoded
    again.

    Args:
        suite: gives the tasks, whose test images are the galleries: each by itself, and all.
        source: the old model; by default the suite's.
        targets: the new models, a comma list; by default those of the suite.
        tasks: of the suite, or others by name or by the path of a card.
        pairs: numbers of images that maps are fitted on, drawn from the training images, without
            labels; by default 64, 256 and 1024, or as many as there are. 0 leaves out the ways that
            need any, for tasks without training images.
        seeds: seeds of the draws of these images; by default 1, 2 and 3.

    Raises:
        CompatbenchError: an unknown name, or weights or images that are not on this machine.
    """
    card = suite_cards.read(suite)
    device = resolve_device(device)
    upgrades = upgrade_pairs(card.upgrades)
    source = backbone_cards.resolve(source or upgrades[0][0])
    read_backbone(source)  # an unknown name is an error here
    if targets is None:
        targets = [new for old, new in upgrades if old == source]
    targets = backbone_cards.resolve_all(targets)
    if not targets or source in targets:
        raise CompatbenchError(f"no upgrade from '{source}' to another model; give --target")
    wanted, known = task_cards.resolve_all(tasks), list(suite_tasks(card))
    known += [name for name in wanted if name in task_cards.names() and name not in known]
    chosen = select_names(wanted, known, f"task of suite '{card.name}'")
    opened = [load_task(name, bare=True) for name in chosen]
    counts = choose_numbers(pairs, seeds, sum(len(task.split("train")) for task in opened))
    study = Galleries(opened, counts, tuple(seeds))
    folder, costs = default_cache_folder(), {}

    def see(name: str) -> Seen:
        backbone = load_backbone(name, device)
        costs[name] = study.time_encoding(backbone, folder)
        return study.see(backbone, folder)

    old, rows = see(source), []
    for name in targets:
        rows += [{"source": source, "target": name, **row} for row in study.compare(old, see(name))]
    asked = {"suite": card.name, "source": source, "target": targets, "tasks": tasks}
    asked |= {"pairs": tuple(counts) or (0,), "seeds": tuple(seeds)}
    options = [
        f"--{name} {values if isinstance(values, str) else ','.join(map(str, values))}"
        for name, values in asked.items()
        if values != {"tasks": "all", "pairs": PAIRS, "seeds": SEEDS}.get(name)
    ]
    width = old.images.shape[1]
    about = {
        "command": " ".join(["compatbench study retrieve", *options]),
        "cpu_seconds_per_million": {"encoded": costs, "mapped": time_map(width, width)},
        "processor": provenance()["processor"],
        "tasks": list(chosen),
    }
    return Retrieval(card.name, pd.DataFrame(rows, columns=pd.Index(COLUMNS)), about)
