"""The conformance kit: a sound method passes it, and each check can be failed alone."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from broken_methods import BROKEN, RaisesInFit, SortsTheNames, Sound, TrainsTheBackbone, describe
from torch import Tensor

from compatbench.backbone import PIXELS, Backbone, BlockUpdates, ImageInput, Labels
from compatbench.cli.authoring import fill_template
from compatbench.engine.confined.remote import ConfinedRegistry
from compatbench.errors import CompatbenchError
from compatbench.extras.check import CHECKS, Outcome, check_methods, run_checks
from compatbench.files.project_folders import content_folder
from compatbench.method import Classifier, CosineClassifier, FewShotData, Method, Module


def outcomes(method: type[Method], *names: str) -> dict[str, Outcome]:
    return {outcome.check: outcome for outcome in run_checks(method, *names)}


def test_a_sound_method_passes_every_check() -> None:
    outcomes(TrainsTheBackbone, "backbone-unchanged")  # whose damage is undone
    found = outcomes(Sound)
    # 'test_other_process.py' is of the check that takes two processes.
    assert {name: o.status for name, o in found.items() if o.status != "pass"} == {
        "other-process": "skip"
    }
    assert list(found) == list(CHECKS)
    assert {name for name, _, _ in BROKEN} == set(CHECKS) - {"other-process"}  # each can be failed


def test_check_methods_gives_a_row_for_each_method_and_check() -> None:
    seen: list[Outcome] = []
    found = check_methods(["taskres", "zeroshot"], "card,settings", progress=seen.append)
    assert found["method"].tolist() == ["zeroshot", "zeroshot", "taskres", "taskres"]
    assert found["check"].tolist() == ["card", "settings"] * 2
    assert found["status"].tolist() == ["pass"] * 4
    assert sorted(found["seconds"]) == sorted(outcome.seconds for outcome in seen)
    with pytest.raises(CompatbenchError, match="leaves no check"):
        check_methods("taskres", "all,!*")


def test_a_file_that_cannot_be_loaded_fails_where_all_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = ConfinedRegistry([content_folder("methods") / "taskres.py"])
    registry.broken["torn"] = "torn.py:3: SyntaxError: bad"
    monkeypatch.setattr("compatbench.extras.check.checks.ConfinedRegistry", lambda: registry)
    found = check_methods("all", "card")
    torn = found.set_index("method").loc["torn"]
    assert (torn["check"], torn["status"]) == ("load", "fail")
    assert torn["reason"] == "torn.py:3: SyntaxError: bad"
    assert len(check_methods("taskres", "card")) == 1


def test_a_method_that_leaves_its_process_fails_the_check_that_was_tried(tmp_path: Path) -> None:
    """The checks are tried where the method is, and never here."""
    (tmp_path / "gone.py").write_text(
        fill_template("gone").replace('shift = module["shift"]', "import os; os._exit(0)")
    )
    found = check_methods(f"{tmp_path / 'gone.py'},taskres", "card,fit,logits")
    gone = found.loc[found["method"] == "gone"]
    assert gone["status"].tolist() == ["pass", "fail"]
    assert "exit code 0" in gone["reason"].iloc[-1]
    assert found.loc[found["method"] == "taskres", "status"].tolist() == ["pass"] * 3


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


def test_an_update_of_blocks_is_seen_where_it_acts_and_may_not_mix_rows() -> None:
    class Inside(Sound):
        card = describe(inserts=("text-layers", "image-layers"))

        def image_input(self, backbone: Backbone) -> ImageInput:
            return PIXELS

        def change(self, output: Tensor, shift: Tensor) -> Tensor:
            return output + shift

        def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
            shift = module["residual"].mean()

            def update(output: Tensor, given: Tensor) -> Tensor:
                return self.change(output, shift)

            updates: BlockUpdates = {(1, "mlp"): update}
            texts = backbone.encode_prompts(
                backbone.text_prompts(labels.fill()), block_updates=updates
            )
            compare = CosineClassifier(texts, 1.0)
            return lambda x: compare(backbone.image.encode(x, block_updates=updates))

    class Mixed(Inside):
        card = describe(inserts=("text-layers", "image-layers"))

        def change(self, output: Tensor, shift: Tensor) -> Tensor:
            return output + shift * output.mean(-2, keepdim=True)

    class Undeclared(Inside):
        card = describe(inserts="image-layers")

    [found] = outcomes(Inside, "place").values()
    assert found.status == "pass", found.reason
    [found] = outcomes(Mixed, "place").values()
    assert found.reason.startswith("the update of 'mlp' in block 1 mixes rows")
    [found] = outcomes(Undeclared, "place").values()
    assert found.reason == "acts at text-layers, undeclared"


def test_only_what_the_card_needs_is_in_labels() -> None:
    class Reads(Sound):
        def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
            backbone.describe(labels)
            return super().attach(module, backbone, labels)

    class Declares(Reads):
        card = describe(needs={"descriptions"})

    [found] = outcomes(Reads, "logits").values()
    assert "no descriptions" in found.reason
    [found] = outcomes(Declares, "logits").values()
    assert found.status == "pass", found.reason


def test_a_method_is_given_what_its_card_needs_and_nothing_else() -> None:
    class Told(Sound):
        card = describe(needs={"unlabelled", "teacher", "stream"}, zero_shot_at={})

        class Config(Sound.Config):
            teacher: str = "another"

        def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
            assert data.teacher is not None
            assert data.unlabelled is not None
            assert data.unlabelled.targets.unique().tolist() == [-1]
            own = data.teacher.data
            assert own.unlabelled is not None
            assert own.train.plain.shape[1] != backbone.embed_dim
            residual = super().fit(backbone, data, rng)["residual"]
            seen = data.unlabelled.plain.mean(0) + own.unlabelled.plain.mean()
            return Module({"residual": residual + 0.01 * seen + own.train.plain.mean()})

        def classifier(self, weights: Tensor, scale: float) -> Classifier:
            classify = super().classifier(weights, scale)
            return lambda features: classify(features - 0.5 * features.mean(0))

    class Untold(Told):
        card = describe()

    found = outcomes(Told)
    assert {name for name, one in found.items() if one.status == "fail"} == set()
    assert found["needs"].reason == "stream, teacher, unlabelled"
    assert "AssertionError" in outcomes(Untold, "fit")["fit"].reason


def test_without_a_module_the_checks_that_need_one_are_skipped() -> None:
    found = outcomes(RaisesInFit)
    statuses = Counter(o.status for o in found.values())
    assert statuses == {"pass": 2, "fail": 1, "skip": len(CHECKS) - 3}
    assert "fix 'fit' first" in found["place"].reason


def test_what_does_not_apply_or_is_excused_is_skipped_with_its_reason() -> None:
    class Ordered(SortsTheNames):
        card = describe(zero_shot_at={}, excused={"class-order": "its classes have an order"})

    undeclared, excused = outcomes(Ordered, "zero-shot-setting", "class-order").values()
    assert undeclared.status == excused.status == "skip"
    assert "zero_shot_at" in undeclared.reason
    assert excused.reason.startswith("its classes have an order (excused: logits on the source")
