"""Descriptions of classes: read from a card's file, part of keys, and encoded."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from compatbench.backbone import Backbone
from compatbench.data.cards import task_cards
from compatbench.data.labels import Labels
from compatbench.data.task import load_task, read_descriptions
from compatbench.engine.keys import identify
from compatbench.errors import CompatbenchError, CompatbenchWarning, NotTransferable
from compatbench.files.hashes import sha256_bytes
from compatbench.files.project_folders import tasks_folder
from compatbench.method import MethodCard

PLAIN = MethodCard("plain", "Plain", "none", "classifier", "reads names alone")
READER = dataclasses.replace(PLAIN, needs={"descriptions"})


def write(path: Path, values: object) -> Path:
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"owl": ["x"]}, "no text of the class 'red fox'"),
        ({"owl": ["x"], "red fox": [""]}, "no text of the class 'red fox'"),
        ({"owl": "x"}, "texts.json: field 'owl'"),
        ([1], "texts.json: "),
    ],
)
def test_descriptions_follow_class_order_and_must_be_complete(
    tmp_path: Path, values: object, reason: str
) -> None:
    names = ("owl", "red fox")
    texts = {"Red_fox": ["b", " a  c ", "", "b"], "owl": ["x"], "a": []}
    path = tmp_path / "texts.json"
    assert read_descriptions(write(path, texts), names) == (("x",), ("b", "a c"))
    with pytest.raises(CompatbenchError, match=reason):
        read_descriptions(write(path, values), names)


@pytest.mark.parametrize("name", list(task_cards.names()))
def test_shipped_descriptions_cover_every_class(name: str) -> None:
    card = task_cards.read(name)
    if card.descriptions is None:
        assert card.parent or name == "imagenet"
        return
    texts = read_descriptions(tasks_folder() / card.descriptions.file, card.names)
    for class_texts in texts:
        assert len(class_texts) >= 3
        for text in class_texts:
            assert text.isprintable()
    licences = (tasks_folder() / "descriptions" / "LICENCES.md").read_text(encoding="utf-8")
    assert card.descriptions.licence in licences


def test_only_methods_that_need_descriptions_get_them_and_have_them_in_their_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task("mini-food")
    assert task.labels_for(PLAIN.needs) == task.labels
    assert task.labels.descriptions == ()
    described = task.labels_for(READER.needs)
    assert dataclasses.replace(described, descriptions=()) == task.labels
    assert len(described.descriptions) == len(task.labels)

    variant = load_task("mini-objects-mono")  # a variant has the descriptions of its parent
    parent = load_task("mini-objects")
    assert variant.labels_for(READER.needs) == parent.labels_for(READER.needs)

    assert identify("plain.1", PLAIN, "mini-food") == "plain.1"
    before = identify("plain.1", READER, "mini-food")
    cards = shutil.copytree(tasks_folder(), tmp_path / "tasks")
    monkeypatch.setenv("COMPATBENCH_TASKS", str(cards))
    assert identify("plain.1", READER, "mini-food") == before
    path = cards / "descriptions" / "mini.json"
    texts = json.loads(path.read_text(encoding="utf-8"))
    write(path, texts | {"no class of the task": ["a text"]})
    load_task.__globals__["_load"].cache_clear()
    assert identify("plain.1", READER, "mini-food") == before
    write(path, texts | {"cake": ["a new text"]})
    load_task.__globals__["_load"].cache_clear()
    assert identify("plain.1", READER, "mini-food") != before
    assert identify("plain.1", PLAIN, "mini-food") == "plain.1"


def test_descriptions_equal_those_of_the_committed_rows() -> None:
    """No key of a test set covers them: measure mini-base-to-new again when they change."""
    found = sha256_bytes((tasks_folder() / "descriptions" / "mini.json").read_bytes())
    assert found == "ce1497f419f4e5829a638155ac4744d5d94adc740d0aae23d6e39f76fc6eb23a"


LABELS = Labels(
    ("dog", "tree"), ("a {}",), "a {}", (("a dog barks.", "a big dog"), ("a tree is green.",))
)


@pytest.mark.parametrize("part", [2, 1000])
def test_description_features_equal_the_encoded_texts(
    clip64: Backbone, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if there are so many that they are encoded in parts."""
    monkeypatch.setattr("compatbench.backbone.backbone.PART", part)
    dog, tree = clip64.describe(LABELS)
    for features, texts in ((dog, LABELS.descriptions[0]), (tree, LABELS.descriptions[1])):
        expected = F.normalize(clip64.text_features(texts), dim=-1)
        torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(NotTransferable, match="no descriptions"):
        clip64.describe(dataclasses.replace(LABELS, descriptions=()))


def test_long_texts_are_cut_at_a_sentence_or_word(clip: Backbone) -> None:
    room = clip.text.context_length - 2
    fits = "a short text."
    sentence = "one two three. "
    sentences = sentence * 20
    words = "word " * 60 + "end"
    with pytest.warns(CompatbenchWarning, match="2 of 3 texts are longer"):
        found = clip.shorten([fits, sentences.strip(), words])
    assert found[0] == fits
    assert found[1] == (sentence * (len(clip.tokens(found[1])) // 4)).strip()
    assert set(found[2].split()) == {"word"}
    for text, more in ((found[1], " " + sentence.strip()), (found[2], " word")):
        assert len(clip.tokens(text)) <= room < len(clip.tokens(text + more))
    clip.text_features(found)
