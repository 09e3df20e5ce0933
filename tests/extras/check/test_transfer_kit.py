"""The conformance kit of transfers: ours keeps the rules, and each rule can be broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from compatbench.extras.check.rules import find_checks
from compatbench.extras.check.run_checks import check_transfers
from compatbench.method.registry import builtin_transfers

BROKEN = """
import torch
from compatbench.method.transfer import Transfer, TransferCard

def card(name, access=()):
    return TransferCard(name, name, "", frozenset(access), "for a test")

class Copies(Transfer):
    card = card("copies")
    def serves(self, method):
        return method.places == ("classifier",)  # one method, which is fitted in no time
    def attach(self, method, module, target, labels, data):
        return method.attach(module, target, labels)

class Untitled(Copies):
    card = TransferCard("untitled", " ", "", frozenset(), "for a test")

class Greedy(Copies):
    card = card("greedy", {"words"})
    def attach(self, method, module, target, labels, data):
        assert data.words.source.shape == data.words.target.shape
        return super().attach(method, module, data.source, labels, data)

class Narrow(Copies):
    card = card("narrow")
    def attach(self, *given):
        classify = super().attach(*given)
        return lambda images: classify(images)[:, 1:]

class Random(Copies):
    card = card("random")
    def attach(self, *given):
        classify = super().attach(*given)
        return lambda images: classify(images) + torch.rand(1)

class Trains(Copies):
    card = card("trains")
    def attach(self, method, module, target, labels, data):
        next(target.model.parameters()).add_(1e-3)
        return super().attach(method, module, target, labels, data)
"""
REASONS = {
    "untitled": ("card", "a title or a summary is empty"),
    "greedy": ("access", "transfer 'greedy' reaches for 'source weights', which its card does not"),
    "narrow": ("logits", "have shape [7, 4], not [7, 5]"),
    "random": ("repeatable", "two attachments of"),
    "trains": ("backbones-unchanged", "was changed"),
}


@pytest.mark.slow
def test_each_rule_can_be_broken_and_is_named(tmp_path: Path) -> None:
    builtin_transfers.cache_clear()
    (tmp_path / "broken.py").write_text(BROKEN)
    found = check_transfers(str(tmp_path / "broken.py"))
    builtin_transfers.cache_clear()
    assert found.query("method == 'copies'")["check"].tolist() == list(find_checks("transfer"))
    failed = found.query("status == 'fail'").groupby("method").first()
    assert set(failed.index) == set(REASONS)
    for name, (rule, reason) in REASONS.items():
        assert failed.loc[name, "check"] == rule
        assert reason in failed.loc[name, "reason"]
