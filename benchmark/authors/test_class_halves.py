"""Base and new classes, draws and prompts equal those of CoCoOp's own datasets and trainer."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from checkout import DASSL, Checkout
from data.trees import build_tree, write_cards

from compatbench.data.cards import task_cards
from compatbench.data.draws import draw_shots
from compatbench.data.task import load_task

SHOTS = 16
SEED = 2


def real_datasets(place: Path) -> ModuleType:
    """Return ``dassl.data.datasets`` with its base class alone; the rest needs other packages."""
    spec = importlib.util.spec_from_file_location("base_dataset", place)
    assert spec is not None
    assert spec.loader is not None
    base = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(base)
    sys.modules[spec.name] = base  # the few shots are pickled
    found = ModuleType("dassl.data.datasets")
    vars(found).update(vars(base))
    registry = SimpleNamespace(register=lambda: lambda cls: cls)
    vars(found)["DATASET_REGISTRY"] = registry
    return found


def clip_of_sizes() -> Any:
    """Return a stand-in for a CLIP, with the attributes that CoCoOp's prompts use."""
    return SimpleNamespace(
        dtype=torch.float32,
        ln_final=SimpleNamespace(weight=torch.zeros(8)),
        visual=SimpleNamespace(output_dim=16, input_resolution=24),
        token_embedding=torch.nn.Embedding(49408, 8),
    )


@pytest.mark.authors("KaiyangZhou/CoOp")
@pytest.mark.parametrize(
    ("task", "name"),
    # The first has an odd number of classes. In the second, names are not in the order of labels.
    [("oxford_pets", "oxford_pets:OxfordPets"), ("flowers102", "oxford_flowers:OxfordFlowers")],
)
def test_halves_have_the_authors_images_names_and_prompts(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, name: str
) -> None:
    tree = build_tree(task_cards.read(task), tmp_path / "data", 18, 6, 2, pictures=False)
    monkeypatch.setenv("COMPATBENCH_TASKS", str(write_cards(tmp_path / "tasks", [tree])))
    monkeypatch.setenv("COMPATBENCH_DATA", str(tmp_path / "data"))
    cocoop = checkout.published("cocoop").tree
    with checkout.open(beside=[DASSL]) as load:
        base = checkout.path(DASSL) / "dassl" / "data" / "datasets" / "base_dataset.py"
        sys.modules["dassl.data.datasets"] = real_datasets(base)
        module, _, cls = name.partition(":")
        for half in ("base", "new"):
            ours = load_task(f"{task}.{half}")
            settings = dict(ROOT=str(tmp_path / "data"), NUM_SHOTS=SHOTS, SUBSAMPLE_CLASSES=half)
            config = SimpleNamespace(SEED=SEED, DATASET=SimpleNamespace(**settings))
            random.seed(SEED)
            theirs = getattr(load(f"datasets.{module}"), cls)(config)
            images = ours.source.base
            draw = draw_shots(ours, SHOTS, SEED)
            for our_samples, their_samples in (
                (draw.train, theirs.train_x),
                (draw.val, theirs.val),
                (ours.split("test"), theirs.test),
            ):
                found = [(str(images / sample.id), sample.label) for sample in our_samples]
                assert found == [(sample.impath, sample.label) for sample in their_samples]
            names = [one.replace("_", " ") for one in theirs.classnames]
            assert list(ours.labels.names) == names
            template = load("trainers.zsclip").CUSTOM_TEMPLATES[cls]
            assert list(ours.labels.fill()) == [template.format(one) for one in names]
            learner = load("trainers.cocoop").PromptLearner(
                cocoop, theirs.classnames, clip_of_sizes()
            )
            prompts = ours.labels.fill("a photo of a {}.")
            assert torch.equal(learner.tokenized_prompts.long(), open_clip.tokenize(prompts).long())
