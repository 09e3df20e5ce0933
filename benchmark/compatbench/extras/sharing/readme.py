"""The README.md of a repository of the hub, from the facts of what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import yaml

from compatbench.backbone.load.find_weights import published_weights
from compatbench.backbone.load.names import read_backbone
from compatbench.data.cards import COPIED, task_cards
from compatbench.data.cards.shots import count_shots
from compatbench.engine.single_module import read_fitted
from compatbench.errors import CompatbenchError
from compatbench.messages import one_line
from compatbench.method import Module
from compatbench.method.registry import builtin_methods
from compatbench.results.method_results import SuiteResults
from compatbench.results.result_files import read_results, result_folders
from compatbench.tables import markdown as md
from compatbench.tables.numbers import percent, signed

_MODULE = """\
# {title}

A module for a frozen vision-language model, in safetensors; the model itself is not in it.

{facts}

## Accuracy

{accuracies}

## Use

With compatbench, where the images of the task are:

```sh
compatbench evaluate {address} --backbone NEW_MODEL{methods}
```

In Python: `cb.evaluate("{address}", "NEW_MODEL")`, or `module = cb.pull_module("{address}")`.
"""
_RESULTS = """\
# Results of the suite {suite}

Accuracies of few-shot modules on the models they were trained on and on newer ones; a row of a
file is a module on a backbone and a test set.

{facts}

```sh
compatbench pull {address} --out FOLDER
```
"""


def describe_module(module: Module, address: str, out: Path, licence: str | None) -> str:
    """The model card of a module, with its accuracies if results in ``out`` know them."""
    _, fitted = read_fitted(module)
    method = builtin_methods().classes.get(fitted.method)
    title, paper = (method.card.title, method.card.paper) if method else (fitted.method, "")
    source, base, terms, task, images = fitted.source, "", "", fitted.task, ""
    with suppress(CompatbenchError):  # a model that is not here
        card = read_backbone(fitted.source)
        source, base, terms = card.title, published_weights(card).repository, card.licence
    if fitted.task in task_cards.names():
        about = task_cards.read(fitted.task)
        task, images = f"{about.title}, {len(about.classes)} classes", about.licence
    drawn = "" if fitted.shots is None else f"{count_shots(fitted.shots)}, seed {fitted.seed}"
    facts = {
        "method": f"{md.linked(title, paper)}, {md.code(fitted.method)}",
        "backbone": f"{md.escape(source)}, {md.code(fitted.source)}",
        "licence of the backbone": md.escape(terms),
        "task": f"{md.escape(task)}, {md.code(fitted.task)}",
        "licence of the images": md.escape(images),
        "trained on": md.escape(drawn),
        "imported from": _values(fitted.imported, "format", "file"),
        "ported": _values(fitted.ported, "from", "transfer"),
        "trained numbers": f"{module.parameters:,}",
        "fingerprint": md.code(module.fingerprint),
    }
    text = _MODULE.format(
        title=md.escape(f"{title} for {task.partition(',')[0]} on {source}"),
        facts=_table(facts),
        accuracies=_accuracies(str(module.about.get("key")), out),
        address=address,
        methods="" if method else f" --methods ./{one_line(fitted.method)}.py",
    )
    links = "\n".join(md.link_definitions([paper]))
    tags = ["compatbench", "clip", fitted.method]
    header = {"library_name": "compatbench", "license": licence, "tags": tags}
    if base:
        header |= {"base_model": base, "base_model_relation": "adapter"}
    return f"{_header(header)}{text}\n{links}".rstrip() + "\n"


def describe_results(results: SuiteResults, address: str) -> str:
    """The dataset card of the results of a suite."""
    frame = results.frame
    names = ("method", "transfer", "task", "source", "backbone", "shots", "seed")
    facts = {one: ", ".join(map(str, sorted(frame[one].unique()))) for one in names}
    facts = {name: md.escape(values, 2000) for name, values in facts.items()}
    text = _RESULTS.format(suite=md.code(results.name), facts=_table(facts), address=address)
    return _header({"tags": ["compatbench", "clip"]}) + text


def _accuracies(key: str, out: Path) -> str:
    """What was measured of the untouched module of a key, as a table."""
    cells = {}
    for folder in result_folders(out):
        frame = read_results(folder).frame
        of_it = (frame["key"] == key) & (frame["transfer"] == COPIED) & (frame["status"] == "ok")
        for row in frame.loc[of_it].to_dict("records"):
            place = md.code(row["backbone"]), md.code(row["test_set"])
            figures = percent(row["accuracy"]), percent(row["zero_shot"])
            cells[place] = (*place, f"{row['total']:,}", *figures, signed(row["gain"]))
    if not cells:
        return "Not known here."
    columns = ("backbone", "test set", "images", "accuracy", "zero-shot", "gain")
    note = "Top-1 in percent, the module untouched."
    return "\n".join([note, "", *md.table(columns, cells.values(), left=(0, 1))])


def _values(about: Mapping[str, object] | None, *names: str) -> str:
    return (
        md.escape(", ".join(str(about[name]) for name in names if name in about)) if about else ""
    )


def _table(facts: Mapping[str, str]) -> str:
    rows = [(name, value) for name, value in facts.items() if value]
    return "\n".join(md.table(("", ""), rows, left=(0, 1)))


def _header(values: Mapping[str, object]) -> str:
    known = {name: value for name, value in values.items() if value}
    return f"---\n{yaml.safe_dump(known, sort_keys=False)}---\n\n"
