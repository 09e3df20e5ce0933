"""The conformance kit: a sound method passes it, and each check can be failed alone."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from broken_methods import BROKEN, SortsTheNames, Sound, describe

from compatbench.conformance import CHECKS, Outcome, check_methods, run_checks
from compatbench.conformance.method_under_test import LABELS, MethodUnderTest
from compatbench.conformance.models import synthetic_models
from compatbench.errors import CompatbenchError
from compatbench.method import Backbone, FewShotData, Method, Module
from compatbench.method.registry import MethodRegistry


def outcomes(method: type[Method], *names: str) -> dict[str, Outcome]:
    return {outcome.check: outcome for outcome in run_checks(method, *names)}


def test_a_sound_method_passes_every_check() -> None:
    found = outcomes(Sound)
    assert {name: o.reason for name, o in found.items() if o.status != "pass"} == {}
    assert list(found) == list(CHECKS)


def test_check_methods_gives_a_row_for_each_method_and_check() -> None:
    seen: list[Outcome] = []
    found = check_methods(["taskres", "zeroshot"], "card,settings", progress=seen.append)
    assert found["method"].tolist() == ["zeroshot", "zeroshot", "taskres", "taskres"]
    assert found["check"].tolist() == ["card", "settings"] * 2
    assert found["status"].tolist() == ["pass"] * 4
    assert found["seconds"].tolist() == [outcome.seconds for outcome in seen]
    with pytest.raises(CompatbenchError, match="leaves no check"):
        check_methods("taskres", "all,!*")


def test_a_file_that_cannot_be_loaded_fails_where_all_are_checked() -> None:
    registry = MethodRegistry({"sound": Sound}, {"torn": "torn.py:3: SyntaxError: bad"})
    found = check_methods("all", "card", registry=registry)
    torn = found.set_index("method").loc["torn"]
    assert (torn["check"], torn["status"]) == ("load", "fail")
    assert torn["reason"] == "torn.py:3: SyntaxError: bad"
    assert len(check_methods("sound", "card", registry=registry)) == 1


def test_every_check_can_be_failed() -> None:
    assert {name for name, _, _ in BROKEN} == set(CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "reason"), BROKEN, ids=[method.__name__ for _, method, _ in BROKEN]
)
def test_a_broken_method_fails_the_check_that_it_breaks_and_no_other(
    name: str, method: type[Method], reason: str
) -> None:
    found = outcomes(method)
    assert {n: o.reason for n, o in found.items() if o.status == "fail"}.keys() == {name}
    assert re.search(reason, found[name].reason)


def test_without_a_module_the_checks_that_need_one_are_skipped() -> None:
    class NeverFits(Sound):
        def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
            raise RuntimeError

    found = outcomes(NeverFits)
    assert Counter(o.status for o in found.values()) == {
        "pass": 2,
        "fail": 1,
        "skip": len(CHECKS) - 3,
    }
    assert "fix 'fit' first" in found["place"].reason


def test_a_setting_that_is_not_declared_is_skipped_with_its_reason() -> None:
    class Plain(Sound):
        card = describe(zero_shot_at={})

    found = outcomes(Plain, "zero-shot-setting")
    assert [o.status for o in found.values()] == ["skip"]
    assert "zero_shot_at" in found["zero-shot-setting"].reason


def test_an_excused_failure_is_a_skip_with_its_reason() -> None:
    class Ordered(SortsTheNames):
        card = describe(zero_shot_at={}, excused={"class-order": "its classes have an order"})

    outcome = outcomes(Ordered, "class-order")["class-order"]
    assert outcome.status == "skip"
    assert outcome.reason.startswith("its classes have an order (excused: logits on the source")


def test_the_synthetic_models_are_put_back_after_every_check() -> None:
    models = synthetic_models()
    tensor = next(models.source.model.parameters())
    before = models.source.text_features(("a dog",)).clone()
    tensor.data.add_(1)
    models.source._text_features.clear()
    assert not torch.equal(models.source.text_features(("a dog",)), before)
    models.restore()
    assert torch.equal(models.source.text_features(("a dog",)), before)
    assert models.changed(models.source) == []


def test_no_two_sizes_of_the_synthetic_source_are_alike() -> None:
    tested = MethodUnderTest(Sound)
    source, target = tested.source, tested.target
    sizes = [source.token_width, source.embed_dim, source.image.width, len(LABELS)]
    assert len(set(sizes)) == len(sizes)
    assert [target.token_width, target.embed_dim, target.image.width] == sizes[:3]
    others = {
        what: (b.token_width, b.embed_dim, b.image.width)
        for what, b in tested.models.others.items()
    }
    differing = {
        what: [old != new for old, new in zip(sizes, new_sizes, strict=False)]
        for what, new_sizes in others.items()
    }
    assert differing == {
        "text tokens": [True, False, False],
        "joint space": [False, True, False],
        "image tower": [False, False, True],
        "every size": [True, True, True],
    }
