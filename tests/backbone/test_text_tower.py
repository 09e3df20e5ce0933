"""Text towers, on the fast path or run whole, equal open_clip's, gradients included."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import product
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds_of_towers import SHARED, UNKNOWN_TEXT_TOWERS, WHOLE
from open_clip_reference import assert_same, draw, encode_contexts, encode_texts, run_tower
from tiny_models import CONTEXT_LENGTH, tiny_clip, wrap
from torch import nn

from compatbench.backbone import Backbone, Labels, Prompts, memory_budget
from compatbench.backbone.text.causal import CausalTower, pack
from compatbench.backbone.text.prompts import Inserted, Swap, move_names
from compatbench.backbone.text.text_anatomy import examine_text_tower
from compatbench.backbone.text.text_tower import PlainTower
from compatbench.errors import CompatbenchError

# 1 to 8 tokens, in no order, with repeated lengths.
RAGGED = (
    "xylophone",
    "dog",
    "a very old small blue boat and dog",
    "fire engine",
    "hippopotamus",
    "tree",
    "red fire engine dog",
    "Zürich, d'Or (soft)",
    "a very old small blue boat",
)


def labels_of(names: tuple[str, ...]) -> Labels:
    return Labels(names, ("a photo of a {}.",), "a photo of a {}.")


LABELS = labels_of(RAGGED)


@pytest.mark.parametrize("kind", WHOLE | SHARED)
def test_texts_and_learned_prompts_equal_encode_text(kind: str) -> None:
    backbone = wrap((WHOLE | SHARED)[kind]().double(), "a-kind")
    # "!" has token id 0, which towers that hide padding take for padding.
    texts = [f"a photo of a {name}." for name in RAGGED]
    texts += ["", "a dog ! and a tree", "!"]
    assert_same(backbone.text_features(tuple(texts)), encode_texts(backbone, texts))
    expected_tower = CausalTower if kind in SHARED else PlainTower
    assert type(backbone.text._tower) is expected_tower
    sees_context = kind != "causal, pooled at the first row"
    for count, budget in product([(4,), (16,), (len(RAGGED), 1), (len(RAGGED), 4)], (None, 0)):
        context = draw(*count, 32)
        expected = encode_contexts(backbone, RAGGED, context)
        with memory_budget(budget):
            found = backbone.encode_prompts(backbone.prompts(LABELS, context))
            assert_same(found, expected, [context] if sees_context else [])


@pytest.fixture(params=["clip", "eva", dict(qk_norm=True), dict(no_causal_mask=True)], ids=str)
def tower(request: pytest.FixtureRequest) -> Backbone:
    """Towers with the fast path, and two that are run whole, in double precision."""
    if isinstance(request.param, str):
        return request.getfixturevalue(f"{request.param}64")
    return wrap(tiny_clip(**request.param).double(), "whole")


LONGEST = " ".join(["dog"] * (CONTEXT_LENGTH - 2))


@pytest.mark.parametrize("first", ["", "dog", "dog tree", LONGEST])
@pytest.mark.parametrize("others", [(), ("dog",), ("dog tree",)], ids=str)
def test_texts_with_shared_tokens_equal_encode_text(
    backbone64: Backbone, first: str, others: tuple[str, ...]
) -> None:
    texts = (first, *others)
    assert_same(backbone64.text_features(texts), encode_texts(backbone64, texts))


@settings(max_examples=25)
@given(
    shared=st.integers(1, 12),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=30),
    images=st.integers(0, 2),
    chunk_rows=st.sampled_from([1, 40, 400]),
)
def test_prompts_of_any_length_equal_the_full_forward(
    clip64: Backbone, shared: int, lengths: list[int], images: int, chunk_rows: int
) -> None:
    """However suffixes are packed, each is separate, and nothing depends on what follows it."""
    prefix = draw(images, shared, 32) if images else draw(shared, 32)
    suffix = draw(len(lengths), 12, 32, seed=1)
    with mock.patch("compatbench.backbone.text.causal.chunk_rows", return_value=chunk_rows):
        found = clip64.encode_prompts(Prompts(prefix, suffix, tuple(lengths)))
    last = torch.tensor([shared + n - 1 for n in lengths])
    noise = draw(CONTEXT_LENGTH, 32).detach()
    expected = []
    for own in prefix if images else [prefix]:
        rows = []
        for i, length in enumerate(lengths):
            rows.append(torch.cat([own, suffix[i, :length], noise])[:CONTEXT_LENGTH])
        expected.append(run_tower(clip64.model, torch.stack(rows), last))
    whole = torch.stack(expected) if images else expected[0]
    assert_same(found, whole, [prefix, suffix])


def test_class_names_are_packed_almost_without_padding() -> None:
    lengths = (3,) * 400 + (4,) * 350 + (5,) * 150 + (6,) * 60 + (7,) * 30 + (9,) * 8 + (14,) * 2
    chunks, _ = pack(lengths, 3, 16, 384, torch.float64, torch.device("cpu"))
    rows = [chunk.rows for chunk in chunks]
    assert sum(rows) <= 1.02 * sum(lengths)
    assert min(rows) >= 300
    assert max(rows) <= 460


@pytest.mark.parametrize("images", [None, 1, 3])
@pytest.mark.parametrize("rows", [[], [4], [4, 4], [1, 3]], ids=str)
def test_deep_and_per_image_prompts_equal_the_full_forward(
    tower: Backbone, images: int | None, rows: list[int]
) -> None:
    """MaPLe: rows 1 to m are replaced before blocks 1, 2, ...; CoCoOp: a context for each image."""
    contexts = draw(images or 1, 4, 32)
    deep = [draw(m, 32, seed=m + 1) for m in rows]
    replaced = dict(enumerate(deep, start=1))
    each = [encode_contexts(tower, RAGGED, context, replaced=replaced) for context in contexts]
    if images:
        prompts = tower.image_prompts(LABELS, contexts)
        expected = torch.stack(each)
    else:
        prompts = tower.prompts(LABELS, contexts[0])
        expected = each[0]
    found = tower.encode_prompts(dataclasses.replace(prompts, deep=tuple(deep)))
    assert_same(found, expected, [contexts, *deep])
    none = tower.encode_prompts(tower.image_prompts(LABELS, contexts[:0]))
    assert none.shape == (0, len(RAGGED), 16)


@pytest.mark.parametrize("before", [0, 1, 2, 4])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_moved_names_equal_the_text_that_they_spell(
    backbone64: Backbone, own: bool, before: int
) -> None:
    words = ["dog", "tree", "blue", "red"]
    names = RAGGED[:7]
    context = backbone64.embed_text(" ".join(words))
    labels = labels_of(names)
    if own:
        context = context.expand(len(names), -1, -1)
    prompts = backbone64.prompts(labels, context)
    moved = move_names(prompts, backbone64.name_tokens(labels)[1], 4, before)
    assert moved.shared == (1 if own else 1 + before)
    head = " ".join(words[:before])
    tail = " ".join(words[before:])
    expected = encode_texts(backbone64, [f"{head} {name} {tail}." for name in names])
    assert_same(backbone64.encode_prompts(moved), expected)


@pytest.mark.parametrize(
    ("block", "rows", "budget"), [(1, 1, 0), (1, 4, 2**40), (2, 4, 0), (2, 4, 2**40)]
)
@pytest.mark.parametrize("chunk_rows", [1, 40, 400])
def test_rows_replaced_per_class_equal_the_full_forward(
    tower: Backbone, block: int, rows: int, budget: int, chunk_rows: int, monkeypatch: Any
) -> None:
    """TCP: rows 1 to m of every class are replaced before one block."""
    for kind in ("causal", "text_tower"):
        monkeypatch.setattr(f"compatbench.backbone.text.{kind}.chunk_rows", lambda _: chunk_rows)
    context = draw(len(RAGGED), 4, 32)
    own = draw(len(RAGGED), rows, 32, seed=1)
    prompts = dataclasses.replace(tower.prompts(LABELS, context), swap=Swap(block, own))
    with memory_budget(budget):
        found = tower.encode_prompts(prompts)
        expected = encode_contexts(tower, RAGGED, context, replaced={block: own})
        assert_same(found, expected, [context, own])


@pytest.mark.parametrize(
    "change",
    [
        dict(deep=(torch.zeros(2, 32),) * 3),
        dict(deep=(torch.zeros(4, 32),)),
        dict(swap=Swap(0, torch.zeros(len(RAGGED), 4, 32))),
        dict(swap=Swap(3, torch.zeros(len(RAGGED), 4, 32))),
        dict(swap=Swap(1, torch.zeros(len(RAGGED), 7, 32))),
        dict(swap=Swap(1, torch.zeros(2, 4, 32))),
    ],
)
def test_replaced_rows_of_wrong_shape_are_refused(clip: Backbone, change: dict[str, Any]) -> None:
    prompts = clip.prompts(LABELS, torch.zeros(len(RAGGED), 4, 32))
    with pytest.raises(CompatbenchError, match="the text tower has 2 blocks after the first"):
        clip.encode_prompts(dataclasses.replace(prompts, **change))


def test_prompts_longer_than_the_context_are_refused(clip: Backbone) -> None:
    context = torch.zeros(CONTEXT_LENGTH - 3, 32)
    fits = clip.prompts(labels_of(("",)), context)  # SOS, context, ".", EOT
    assert clip.encode_prompts(fits).shape == (1, 16)
    with pytest.raises(CompatbenchError, match=r"a prompt of 33 tokens .* 32"):
        clip.encode_prompts(clip.prompts(labels_of(("", "dog")), context))
    with pytest.raises(CompatbenchError, match="does not fit"):
        clip.text_features((" ".join(["dog"] * (CONTEXT_LENGTH - 1)),))


@pytest.mark.parametrize("build", UNKNOWN_TEXT_TOWERS.values(), ids=UNKNOWN_TEXT_TOWERS)
def test_unknown_text_tower_is_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(CompatbenchError, match=r"'odd': its (text|blocks)"):
        examine_text_tower(build(), "odd")


def test_blocks_before_inserted_rows_run_once(clip: Backbone) -> None:
    """The values of the rows are tested with MMRL."""
    texts = ("a photo of a dog.", "a photo of a red cat.")
    calls: list[int] = []

    def encode(*texts: str, seed: int = 1) -> torch.Tensor:
        rows = (draw(3, clip.text.width, seed=seed).float(),)
        prompts = dataclasses.replace(clip.text_prompts(texts), inserted=Inserted(1, rows))
        return clip.encode_prompts(prompts).detach()

    block: Any = clip.text._anatomy.blocks[0]
    handle = block.register_forward_hook(lambda *_: calls.append(1))
    first = encode(*texts)
    other = encode(*texts, seed=2)
    assert not torch.equal(first, other)
    assert len(calls) == 1
    assert torch.allclose(encode("a tree", texts[1])[1], first[1], atol=1e-5)  # other common rows
    assert torch.equal(encode(*texts), first)
    assert len(calls) == 3
    handle.remove()
