"""The checks of ``results/retrieval/``: rows agree with each other, and some are measured again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from compatbench.backbone import load_backbone
from compatbench.backbone.load import locate_weights, planning, read_backbone
from compatbench.data.task import load_task
from compatbench.engine.galleries import Galleries
from compatbench.engine.gallery_rows import CEILING, FIGURES, KEY, OLD, POOLED, QUERIES
from compatbench.engine.index_maps import WAYS
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.findings import Finding, compare_file, list_findings
from compatbench.extras.audit.tolerance import EPSILON, Tolerance
from compatbench.extras.indexes.retrieval_files import read_file, show_facts, show_rows

DIGITS = 5e-5  # half the last one that a file shows, in percent
WRITTEN = "is not as 'compatbench retrieve' writes it"


def check_file(path: Path) -> Iterator[Finding]:
    """What of a suite's rows and facts cannot be, without any model."""
    try:
        rows, about = read_file(path)
        text, facts = show_rows(rows.drop_duplicates([*KEY])), show_facts(about)
    except CompatbenchError as error:
        yield Finding(str(path), str(error))
        return
    yield from compare_file(path, text, WRITTEN)
    yield from compare_file(path.with_suffix(".json"), facts, WRITTEN)
    rows = rows.assign(file=str(path), line=range(2, len(rows) + 2))
    needs = {way: "images" in access for way, access in WAYS.items()} | {OLD: False, CEILING: False}
    known = rows["way"].isin([*needs]) & rows["queries"].isin(QUERIES)
    known &= (rows["pairs"] > 0) == rows["way"].map(needs)
    problem = "there is no such way or kind of queries, or none with so many pairs"
    yield from list_findings(rows.loc[~known], problem, "way")
    few, more, most, mean = (rows[name] for name in FIGURES)
    ordered = (few >= 0) & (few <= more) & (more <= most) & (most <= 100)
    ordered &= (mean > 0) & (mean <= 100)
    yield from list_findings(rows.loc[~ordered], "recall falls, or a figure is none", FIGURES[0])
    counts = rows[["images", "asked", "seeds"]].min(axis=1)
    yield from list_findings(rows.loc[~(counts >= 1)], "is no number of images or queries", "asked")
    for name in FIGURES[:3]:
        hits = rows[name] * rows["asked"] * rows["seeds"] / 100
        left = (hits - hits.round()).abs() > DIGITS * rows["asked"] * rows["seeds"] / 100 + 1e-9
        yield from list_findings(rows.loc[left], "is no share of {asked} queries", name)
    same = [name for name in KEY if name != "gallery"]
    single = rows.loc[rows["gallery"] != POOLED].groupby(same)["images"].sum().rename("sum")
    pooled = rows.loc[rows["gallery"] == POOLED].join(single, on=same)
    problem = "the gallery of all is not that of these tasks; run 'retrieve' with all of them"
    unlike = pooled.loc[pooled["images"] != pooled["sum"]]
    yield from list_findings(unlike, problem, "images", "{sum:.0f}")


def measure_again(path: Path, seed: int, folder: Path, device: str) -> tuple[list[Finding], str]:
    """Compares one task's gallery in one upgrade, drawn at random, with what is computed here.

    The ways that need images are left out: their pairs are of all tasks. Of recall, and of
    precision, as many queries may differ as images in a cell of another machine.

    Args:
        folder: of the cache of features.

    Returns:
        What is wrong, and a line that says what was looked at.
    """
    rows, _ = read_file(path)
    rows = rows.assign(file=str(path), line=range(2, len(rows) + 2))
    rows = rows.loc[(rows["gallery"] != POOLED) & (rows["pairs"] == 0)]
    groups = [*rows.groupby(["source", "target", "gallery"])]
    random.Random(seed).shuffle(groups)
    for (source, target, gallery), own in groups:
        try:
            with planning():
                for name in (source, target):
                    locate_weights(read_backbone(name))
            study = Galleries([load_task(gallery, bare=True)])
            old, new = (study.see(load_backbone(one, device), folder) for one in (source, target))
        except CompatbenchError:
            continue  # not on this machine
        again = pd.DataFrame(study.compare(old, new)).assign(source=source, target=target)
        both = own.merge(again, how="left", on=[*KEY], suffixes=("", "_again"))
        findings = []
        for name in ("images", "asked", *FIGURES):
            queries = both["asked"].map(Tolerance(EPSILON).of)
            most = 100 * queries / both["asked"] + DIGITS if name in FIGURES else 0
            wrong = both.loc[~((both[name] - both[f"{name}_again"]).abs() <= most)]
            problem = "was measured again and is another"
            findings += list_findings(wrong, problem, name, f"{{{name}_again:.6g}}")
        return findings, f"{path}: {source} → {target} was measured again on {gallery}"
    return [], f"{path}: none was measured again; weights or images are not here"
