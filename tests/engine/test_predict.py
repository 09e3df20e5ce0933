"""Answers image by image: classes, their probabilities, and how prompts differ."""

from __future__ import annotations

import pytest
import torch

from compatbench.engine.predict import predict, prompt_diversity


def test_logits_become_the_largest_class_and_its_probability() -> None:
    found = predict(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    assert found.classes.tolist() == [1, 0]
    assert found.confidence.tolist() == pytest.approx([0.731059, 0.880797], abs=1e-6)


def test_prompt_diversity_against_a_naive_loop() -> None:
    contexts = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    pairs = [
        1 - float(v[i].dot(v[j]) / (v[i].norm() * v[j].norm()))
        for v in contexts
        for i in range(4)
        for j in range(i)
    ]
    assert prompt_diversity(contexts) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert prompt_diversity(torch.ones(4, 6)) == pytest.approx(0, abs=1e-9)
    assert prompt_diversity(torch.eye(4)) == pytest.approx(1)
    assert prompt_diversity(torch.ones(1, 6)) is prompt_diversity(None) is None
