"""Step ``report``: measures the finished suite and writes ``build/figures.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from rich.progress import track

from compatbench.backbone.image.image_tower import ImageTower

from . import duplicates, towers
from .reading import read_card, read_split, read_test, split_names
from .sets import BUILD_FOLDER, MINI_FOLDER
from .tokenizer import load_tokenizer

FIGURES_PATH = BUILD_FOLDER / "figures.md"
SHOTS = 16


def report(work: Path) -> None:
    """Measures tasks and models from the files in the suite's folder.

    Needs the working folder only for the search for near-copies.
    """
    paths = {name: MINI_FOLDER / f"{name}.safetensors" for name in towers.CONFIGS}
    # A model that the suite does not ship has nothing to be measured.
    models = {name: towers.load(name, path) for name, path in paths.items() if path.is_file()}
    pair = {name: models[name] for name in (towers.SOURCE, towers.TARGET)}
    names = split_names()
    accuracies = [zero_shot_rows(name, models) for name in track(names, "zero-shot")]
    tables = {
        "Drawings": [drawings_row(name) for name in names],
        "Zero-shot accuracy, first template, %": [row for row, _ in accuracies],
        "Zero-shot accuracy, ensemble of the templates, %": [row for _, row in accuracies],
        "Zero-shot accuracy of the patches, %": [
            patches_row(name, pair) for name in track(_parents(names), "patches")
        ],
        "Near-copies, % of the distinct test drawings": near_copies(work, names),
    }
    lines = ["# Figures", "", "Measured by `python -m compatbench.tasks.mini.build report`.", ""]
    for title, rows in tables.items():
        lines += [f"## {title}", "", to_markdown(with_mean(pd.DataFrame(rows))), ""]
    lines += [
        "A patch passes the last norm and the projection, as the class token does: these are the",
        "dense features that PLOT matches its prompts to.",
        "",
        "A near-copy is a drawing whose grey pixels correlate by more than "
        f"{duplicates.NEARLY_SAME} with",
        "any drawing on the other side, whatever the two are called.",
        "",
    ]
    FIGURES_PATH.write_text("\n".join(lines), encoding="utf-8")


def _parents(names: list[str]) -> list[str]:
    return [name for name in names if "parent" not in read_card(name)]


def drawings_row(name: str) -> dict[str, object]:
    """How many rows and distinct drawings a task has."""
    rows, classes = read_split(name), len(read_card(name)["classes"])
    sizes = rows.split.value_counts()
    train = rows[rows.split == "train"].groupby("label").size()
    test = rows[rows.split == "test"]
    return {
        "task": name,
        "classes": classes,
        "train": sizes.get("train", 0),
        "val": sizes.get("val", 0),
        "test": sizes["test"],
        "test drawings": len(test.drop_duplicates(["set", "tile"])),
        "train drawings per class, least": train.min() if len(train) else "",
        "median": train.median() if len(train) else "",
        f"classes with more than {SHOTS}": int((train > SHOTS).sum()) if len(train) else "",
    }


def zero_shot_rows(
    name: str, models: dict[str, towers.Model]
) -> tuple[dict[str, object], dict[str, object]]:
    """Zero-shot accuracies of all models on a task's test split: one template, and the ensemble."""
    card, images, labels = read_test(name)
    single: dict[str, object] = {"task": name, "chance": 100 / len(card["classes"])}
    ensemble = dict(single)
    for model_name, model in models.items():
        features = image_features(model, images)
        for row, templates in ((single, card["templates"][:1]), (ensemble, card["templates"])):
            weights = zero_shot(model, card["classes"], templates)
            row[model_name] = accuracy(features @ weights.T, labels)
    return single, ensemble


def patches_row(name: str, models: dict[str, towers.Model]) -> dict[str, object]:
    """What the patches of a task's test images say, each projected as the class token is.

    ``patch`` is the share of patches whose nearest class text is the image's; ``mean`` takes
    the mean cosine over an image's patches.
    """
    card, images, labels = read_test(name)
    row: dict[str, object] = {"task": name, "chance": 100 / len(card["classes"])}
    for role, model in models.items():
        weights = zero_shot(model, card["classes"], card["templates"][:1])
        cosines = patch_features(model, images) @ weights.T
        each = labels.repeat_interleave(cosines.shape[1])
        row[role] = accuracy(image_features(model, images) @ weights.T, labels)
        row[f"{role}, patch"] = accuracy(cosines.flatten(0, 1), each)
        row[f"{role}, mean"] = accuracy(cosines.mean(1), labels)
    return row


# Classifiers without the harness, but for its patches: a check of both.
def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy in percent of logits [N, C] against labels [N]."""
    return (logits.argmax(1) == labels).float().mean().item() * 100


@torch.no_grad()
def image_features(model: towers.Model, images: torch.Tensor) -> torch.Tensor:
    """Unit features, float [N, dim], of normalised images, float [N, 3, 48, 48]."""
    return torch.cat([towers.encode_images(model, part) for part in images.split(256)])


@torch.no_grad()
def patch_features(model: towers.Model, images: torch.Tensor) -> torch.Tensor:
    """Unit features of the patches, float [N, patches, dim], projected as the class token is."""
    tower = ImageTower(model.visual, "mini")
    parts = [tower.encode(tower.embed(part), dense=True)[:, 1:] for part in images.split(256)]
    return F.normalize(torch.cat(parts).float(), dim=-1)


@torch.no_grad()
def zero_shot(
    model: towers.Model, classes: Sequence[str], templates: Sequence[str]
) -> torch.Tensor:
    """Class weights, float [C, dim]: unit means of the templates' unit text features."""
    tokenizer = load_tokenizer()
    features = [
        towers.encode_text(model, tokenizer([template.format(c) for c in classes]))
        for template in templates
    ]
    return F.normalize(torch.stack(features).mean(0), dim=-1)


def near_copies(work: Path, names: list[str]) -> list[dict[str, object]]:
    """For each task, how many test drawings have a near-copy in training or pre-training."""
    source = duplicates.pretraining_fingerprints(work, "source")
    both = torch.cat([source, duplicates.pretraining_fingerprints(work, "target")])
    result = []
    for name in track(names, "near-copies"):
        rows = read_split(name)
        test = duplicates.split_fingerprints(rows[rows.split == "test"])
        pool = read_split(read_card(name).get("parent", name).removeprefix("mini-"))
        pool = duplicates.split_fingerprints(pool[pool.split != "test"])
        result.append(
            {
                "task": name,
                "in the source's pre-training": duplicates.share_nearly_same(test, source),
                "in the target's": duplicates.share_nearly_same(test, both),
                "in the task's train and val": duplicates.share_nearly_same(test, pool),
            }
        )
    return result


def with_mean(table: pd.DataFrame) -> pd.DataFrame:
    """Adds the mean over the tasks proper and the mean over all rows, where columns are shares."""
    if not any(table[c].dtype == float for c in table.columns[1:]):
        return table
    proper = table[[name in _parents(list(table.task)) for name in table.task]]
    means = [{"task": "**mean of tasks**", **proper.iloc[:, 1:].mean(numeric_only=True)}]
    if len(proper) < len(table):
        means.append({"task": "**with variants**", **table.iloc[:, 1:].mean(numeric_only=True)})
    return pd.concat([table, pd.DataFrame(means)], ignore_index=True)


def to_markdown(table: pd.DataFrame) -> str:
    """A Markdown table; floats with one decimal."""
    cells = [
        ["" if v is None or v != v else f"{v:.1f}" if isinstance(v, float) else str(v) for v in row]
        for row in table.itertuples(index=False)
    ]
    head = [str(c) for c in table.columns]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
