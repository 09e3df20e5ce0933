"""The suite ``paper-small``: what it needs, before anything is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import invoke

from compatbench.data.cards import backbone_cards, suite_cards, task_cards
from compatbench.data.draws import MOST_VALIDATION_SHOTS
from compatbench.engine.method_settings import resolve_settings
from compatbench.method.registry import builtin_methods

SUITE = suite_cards.read("paper-small")
GB = 1e9
FEATURE = 512 * 4  # bytes of an image's features at ViT-B/16
TOKENS = 197 * 768 * 4  # bytes of its tokens, for methods that act inside the image tower
WEIGHTS = 600e6  # bytes of the weights of one model, in float32
MOST_EPOCHS = 200  # at 16 shots, each with a fresh view


def test_paper_small_is_a_part_of_paper_and_needs_no_agreement() -> None:
    paper = suite_cards.read("paper")
    assert SUITE.upgrades == paper.upgrades == (("vit-b16-openai", "eva02-b16"),)
    assert {*SUITE.tasks} < {*paper.tasks}
    assert SUITE.methods == paper.methods
    assert SUITE.training == paper.training
    assert SUITE.seeds == (1,)
    for name in SUITE.tasks:
        for file in task_cards.read(name).downloads:
            assert file.url is not None
            assert not file.agree
    for name in SUITE.upgrades[0]:
        assert backbone_cards.read(name).licence == "MIT"


def test_paper_small_needs_at_most_40_gb_of_disk() -> None:
    """Count the downloads, the weights, the features of all views, and the tokens."""
    tokens_of = set()  # (task, view) of images that are kept as tokens
    for name in SUITE.compare:
        method = builtin_methods().get(name)
        if not any(place.startswith("image") for place in method.card.places):
            continue
        for task in SUITE.tasks:
            settings: Any = resolve_settings(method, SUITE, name, task)
            views = settings.training.list_views(epochs=5 if name == "maple" else MOST_EPOCHS)
            tokens_of |= {(task, view) for view in views}
    total = 0.0
    for name in SUITE.tasks:
        card: Any = task_cards.read(name)
        classes = len(card.classes)
        train = SUITE.shots[0] * classes
        val = MOST_VALIDATION_SHOTS * classes
        views = len([task for task, _ in tokens_of if task == name])
        assert views >= 16
        with_tokens = train * (views + 1) + val + 2 * card.counts["test"]
        total += with_tokens * TOKENS
        total += (train * (2 * MOST_EPOCHS) + val + 2 * card.counts["test"]) * FEATURE
        # The archive is deleted after it is unpacked.
        total += 2 * sum(file.bytes or 0 for file in card.downloads)
    total += 2 * WEIGHTS
    assert 30 * GB < total < 40 * GB


def test_doctor_shows_missing_parts_with_sizes_and_the_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMPATBENCH_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = invoke("store doctor --suite paper-small")
    assert shown.exit_code == 1
    lines = [line.strip() for line in shown.output.splitlines()]
    for name in (*SUITE.tasks, *SUITE.upgrades[0]):
        place = lines.index(f"missing {name}")
        facts = lines[place : place + 6]
        assert any(fact.startswith("size: about ") for fact in facts), name
        assert any(fact.startswith("licence: ") for fact in facts), name
    assert "fix: compatbench store data fetch eurosat, or say where it is" in shown.output
    [total] = [line for line in lines if line.startswith("To download")]
    assert total == "To download: about 2.5 GiB (images 1.4 GiB, weights 1.1 GiB)"
    assert "'compatbench store data fetch --suite paper-small' gets images" in shown.output
