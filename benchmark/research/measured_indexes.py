"""Stored indexes of a suite's test images by every way to go on, as docs/indexes.md has them.

python benchmark/research/measured_indexes.py                         # all upgrades of mini
python benchmark/research/measured_indexes.py --target mini-eva-clip  # one of them

It writes measured_indexes.csv beside this file, of which ``python benchmark/pages.py indexes``
makes the table. Queries are class names and images, as in ``compatbench study retrieve``, and an
image is relevant if its class has the name; the ways are those of ``cb.measure_index``, with three
draws of pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

import compatbench as cb
from compatbench.backbone import load_backbone
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import suite_cards, suite_tasks
from compatbench.data.task import load_task
from compatbench.extras.indexes.galleries import Galleries, Seen
from compatbench.extras.indexes.retrieval_files import POOLED
from compatbench.results.expected import upgrade_pairs

HERE = Path(__file__).parent


def main(
    suite: str = "mini",
    source: str = "mini-clip",
    target: Annotated[list[str] | None, typer.Option(help="may be repeated")] = None,
) -> None:
    """Measure the upgrades of a suite from one source."""
    card = suite_cards.read(suite)
    study = Galleries([load_task(name, bare=True) for name in suite_tasks(card)], (1024,))
    folder, parts = default_cache_folder(), []

    def see(name: str) -> Seen:
        return study.see(load_backbone(name), folder)

    old = see(source)
    for name in target or [new for start, new in upgrade_pairs(card.upgrades) if start == source]:
        new = see(name)
        for question in study.questions:
            if question.gallery != POOLED or question.queries == "captions":
                continue
            items, by_text = question.images, question.itself is None
            texts = getattr(old, question.queries), getattr(new, question.queries)
            measured = cb.measure_index(
                old.images[items],
                new.images[items],
                # Of images every second one asks, and does not find itself.
                queries=(texts[0][question.asking], texts[1][question.asking]) if by_text else None,
                labels=question.kinds,
                query_labels=question.wanted if by_text else None,
                words=(old.words, new.words),
                paired=(old.pool, new.pool),
                progress=print,
            )
            print(f"{source} → {name}, asked by {question.queries}: {measured}")
            about = {"source": source, "target": name, "queries": question.queries}
            parts.append(measured.frame.assign(**about, verdict=measured.verdict))
    frame = pd.concat(parts)
    frame.to_csv(HERE / "measured_indexes.csv", index=False, float_format="%.4f")


if __name__ == "__main__":
    typer.run(main)
