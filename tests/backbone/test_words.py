"""The word list and its features."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from compatbench.backbone.words import (
    TEMPLATE,
    WordFeatures,
    find_words,
    load_words,
    save_words,
    words_hash,
)
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.extras.check.models import synthetic_models

sys.path.append(str(Path(__file__).parents[2] / "benchmark" / "research"))

from make_words import UNKIND, make_words

SOME = load_words()[::100]


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compatbench.backbone.words.load_words", lambda: SOME)


def test_word_list_is_sorted_plain_and_licensed() -> None:
    words = load_words()
    assert 2000 < len(words) < 10_000
    assert list(words) == sorted(set(words))
    for word in words:
        assert word.isascii()
        assert word.isalpha()
        assert word.islower()
    assert not UNKIND & set(words)
    path = Path(__file__).parents[2] / "benchmark/compatbench/backbone/words.txt"
    header = path.read_text().partition("\na")[0]
    assert "Kevin Atkinson" in header
    assert "Princeton University" in header


def test_word_list_keeps_common_nouns_for_things(tmp_path: Path) -> None:
    lists = dict.fromkeys(product(("english", "american"), (10, 20, 35, 50)), "")
    lists["english", 10] = "cat\nidea\nox\nCat\ncat's\ncock\n"
    lists["american", 35] = "sofa\n"
    lists["english", 50] = "chaise\n"
    files = {}
    for (kind, level), text in lists.items():
        files[f"dict/scowl/{kind}-words.{level}"] = text
    senses = "05 n 01 cat", "09 n 01 idea", "06 n 01 sofa"
    rows = [f"{number:08} {sense} 0 000" for number, sense in enumerate(senses, 1)]
    files["wordnet/data.noun"] = "\n".join(["  1 licence", *rows, ""])
    index = ["cat n 2 1 @ 2 1 00000001 00000002", "idea n 2 0 2 1 00000002 00000001"]
    nouns = dict(ox=1, cock=1, sofa=3, chaise=3)
    index += [f"{noun} n 1 0 1 0 {sense:08}" for noun, sense in nouns.items()]
    files["wordnet/index.noun"] = "\n".join(["  1 licence", *index])
    for name, text in files.items():
        path = tmp_path / "usr" / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert make_words(tmp_path, tmp_path) == ["cat", "sofa"]


@pytest.mark.usefixtures("few_words")
def test_word_features_equal_their_prompts_and_are_cached(tmp_path: Path) -> None:
    backbone = synthetic_models().source
    first = WordFeatures(tmp_path).of(backbone)
    plain = backbone.text_features(tuple(TEMPLATE.format(word) for word in SOME))
    assert torch.allclose(first, torch.nn.functional.normalize(plain, dim=-1), atol=1e-6)
    [entry] = tmp_path.rglob("*.safetensors")
    before = entry.stat().st_mtime_ns
    content = bytearray(entry.read_bytes())
    assert torch.equal(WordFeatures(tmp_path).of(backbone), first)
    assert entry.stat().st_mtime_ns == before
    assert torch.equal(WordFeatures(None).of(backbone), first)
    content[-1] ^= 1
    entry.write_bytes(content)
    with pytest.warns(CompatbenchWarning, match="damaged"):
        assert torch.equal(WordFeatures(tmp_path).of(backbone), first)


def test_saved_word_features_are_returned_only_for_their_word_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = synthetic_models().source
    features = torch.randn(5, 3)
    save_words(tmp_path, source, features)
    module = tmp_path / "cell" / "module.safetensors"
    before = words_hash()
    found = find_words(module, source.name)
    assert torch.equal(found, features)
    assert find_words(module, "another") is None
    monkeypatch.setattr("compatbench.backbone.words.load_words", lambda: SOME)
    assert words_hash() != before
    with pytest.raises(CompatbenchError, match="another word list"):
        find_words(module, source.name)
