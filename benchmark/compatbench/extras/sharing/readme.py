"""The README.md of a repository of the hub, from the facts of what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from huggingface_hub import CardData, DatasetCardData, ModelCardData

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
from compatbench.tables import table as shown
from compatbench.tables.numbers import percent, signed
from compatbench.tables.table import Cell, plain_table, sentence
from compatbench.tables.templates import render_markdown

TAGS = ["compatbench", "clip"]

_FOLDER = Path(__file__).parent


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
    classes = fitted.labels.names if fitted.labels else ()
    drawn = "" if fitted.shots is None else f"{count_shots(fitted.shots)}, seed {fitted.seed}"
    facts = {
        "method": sentence(shown.text(title, paper), ", ", shown.code(fitted.method)),
        "backbone": sentence(shown.text(source), ", ", shown.code(fitted.source)),
        "licence of the backbone": terms,
        "task": sentence(shown.text(task), ", ", shown.code(fitted.task)),
        "licence of the images": images,
        "classes": one_line(", ".join(classes[:20])) + ", ..." * (len(classes) > 20),
        "trained on": drawn,
        "imported from": _values(fitted.imported, "format", "file"),
        "ported": _values(fitted.ported, "from", "transfer"),
        "trained numbers": f"{module.parameters:,}",
        "fingerprint": shown.code(module.fingerprint),
    }
    text = render_markdown(
        str(_FOLDER / "module.md.jinja"),
        title=f"{title} for {task.partition(',')[0]} on {source}",
        facts=_facts(facts),
        accuracies=_accuracies(str(module.about.get("key")), out),
        address=address,
        methods="" if method else f" --methods ./{one_line(fitted.method)}.py",
    )
    header = ModelCardData(
        library_name="compatbench",
        license=licence,
        tags=[*TAGS, fitted.method],
        base_model=base or None,
        base_model_relation="adapter" if base else None,
    )
    return f"{_header(header)}{text}\n\n{md.define_links(text)}".rstrip() + "\n"


def describe_results(results: SuiteResults, address: str) -> str:
    """The dataset card of the results of a suite."""
    names = ("method", "transfer", "task", "source", "backbone", "shots", "seed")
    values = {name: map(str, sorted(results.frame[name].unique())) for name in names}
    facts = _facts({name: ", ".join(each) for name, each in values.items()})
    template = str(_FOLDER / "results.md.jinja")
    text = render_markdown(template, suite=results.name, facts=facts, address=address)
    return f"{_header(DatasetCardData(tags=TAGS))}{text}\n"


def _accuracies(key: str, out: Path) -> str:
    """What was measured of the untouched module of a key, as a table."""
    cells = {}
    for folder in result_folders(out):
        frame = read_results(folder).frame
        of_it = (frame["key"] == key) & (frame["transfer"] == COPIED) & (frame["status"] == "ok")
        for row in frame.loc[of_it].to_dict("records"):
            place = shown.code(row["backbone"]), shown.code(row["test_set"])
            figures = percent(row["accuracy"]), percent(row["zero_shot"]), signed(row["gain"])
            cells[place] = (*place, f"{row['total']:,}", *map(shown.number, figures))
    if not cells:
        return "Not known here."
    columns = ("backbone", "test set", "images", "accuracy", "zero-shot", "gain")
    note = "Top-1 in percent, the module untouched."
    return md.render_table(plain_table(columns, cells.values(), left=(0, 1), caption=note))


def _values(about: Mapping[str, object] | None, *names: str) -> str:
    """Those of the values that are known, in a row."""
    return ", ".join(str(about[name]) for name in names if name in about) if about else ""


def _facts(facts: Mapping[str, str | Cell]) -> str:
    """What is known, as a table."""
    rows = [(name, value) for name, value in facts.items() if value]
    return md.render_table(plain_table(("", ""), rows, left=(0, 1)), longest=2000)


def _header(data: CardData) -> str:
    return f"---\n{data.to_yaml()}\n---\n\n"
