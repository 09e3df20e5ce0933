"""Gains predicted without labels: the features and the fit beside naive ones, and the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import output_of

import compatbench as cb
from compatbench.data.task import load_task
from compatbench.engine.single_module import read_fitted
from compatbench.errors import CompatbenchWarning, NotTransferable
from compatbench.extras.advice.predict import describe_moves, open_images
from compatbench.method.predictions import Predictions
from compatbench.method.registry import builtin_methods
from compatbench.transfers._shared.survival import (
    Estimator,
    FourAnswers,
    describe_answers,
    describe_kinds,
    describe_module,
    to_json,
)

OLD, NEW = "mini-clip", "mini-eva-clip-anew"


def draw_answers(seed: int, images: int = 60, classes: int = 4) -> FourAnswers:
    generator = torch.Generator().manual_seed(seed)
    return FourAnswers(
        *(
            Predictions(
                torch.randint(classes, (images,), generator=generator).int(),
                torch.rand(images, generator=generator),
            )
            for _ in range(4)
        )
    )


def test_features_are_counts_of_images_where_the_module_changes_the_answer() -> None:
    four = draw_answers(1)
    old, old_zero, new, new_zero = (
        [*zip(one.classes.tolist(), one.confidence.double().tolist(), strict=True)]
        for one in (four.source, four.source_zero_shot, four.target, four.target_zero_shot)
    )
    shares = [
        [sum(a == c for a, _ in one) / 60 for c in range(5)]
        for one in (old, old_zero, new, new_zero)
    ]
    d = sum(b != b0 for (b, _), (b0, _) in zip(new, new_zero, strict=True)) / 60
    expected = dict.fromkeys(describe_answers(four, 5), 0.0) | {
        "differ": d,
        "uneven": d * sum(abs(x - 1 / 5) for x in shares[2]) / 2,
        "uneven_zero": d * sum(abs(x - 1 / 5) for x in shares[3]) / 2,
        "uneven_source": d * sum(abs(x - 1 / 5) for x in shares[0]) / 2,
        "moved": d * sum(abs(x - y) for x, y in zip(shares[2], shares[0], strict=True)) / 2,
        "plain": d * sum(a == b for (a, _), (b, _) in zip(old, new_zero, strict=True)) / 60,
        "certain": d * sum(sure for _, sure in new_zero) / 60,
    }
    for (a, s), (a0, s0), (b, t), (b0, t0) in zip(old, old_zero, new, new_zero, strict=True):
        if b == b0:
            continue
        expected["sides_source"] += ((a == b) - (a == b0)) / 60
        expected["sides_confident"] += s * ((a == b) - (a == b0)) / 60
        expected["alone"] += (b not in (a, a0)) / 60
        expected["sure"] += t / 60
        expected["sure_zero"] += t0 / 60
        expected["sure_source"] += s / 60
        expected["sure_source_zero"] += s0 / 60
    assert describe_answers(four, 5) == pytest.approx(expected, abs=1e-9)
    same = FourAnswers(four.source, four.source_zero_shot, four.target, four.target)
    assert set(describe_answers(same, 5).values()) == {0.0}  # what changes no answer gains nothing


def test_a_module_of_the_joint_space_sees_its_move_copied_and_what_is_left_through_words() -> None:
    moves = {"words": 0.9, "residual": 0.2, "images": 1.0}
    probes = [describe_module(("classifier",), way, False, 0.1) for way in ("copied", "words")]
    copied, words = (describe_moves(one, moves) for one in probes)
    assert (copied["bound moved"], words["bound moved"]) == (0.9, 0.2)
    assert (copied["bound through words"], words["bound through words"]) == (0, 1)
    prompts = describe_moves(describe_module(("text-input",), "copied", True, 0.9), moves)
    assert (prompts["text-input unrelated"], prompts["classifier moved"]) == (1, 0)
    kinds = describe_kinds({"differ": 0.5}, probes[1])
    assert {name for name, value in kinds.items() if value == 0.5} == {
        "differ classifier",
        "differ words",
        "differ bound",
    }


def test_an_estimate_is_a_sum_within_the_share_that_can_change() -> None:
    one = Estimator(("differ", "sides"), (-0.5, 2.0), 0.0, 1.5, 0.02)
    row = {"differ": 0.2, "sides": 0.06}
    gain = one.predict(row)
    assert gain.value == pytest.approx(-0.5 * 0.2 + 2 * 0.06)
    assert gain.high == pytest.approx(0.2)  # 0.02 + 1.5 · 0.22 is more than can be gained
    assert one.predict({"differ": 0.2, "sides": 1}).value == 0.2
    models = Estimator(("unrelated",), (-0.3,), 0.1, 0.05, None).predict({"unrelated": 1.0})
    assert (models.low, models.value, models.high) == pytest.approx((-0.25, -0.2, -0.15))
    written = json.loads(to_json({("images", ""): one, ("images", "a → b"): one}, {"by": "us"}))
    assert written == {
        "provenance": {"by": "us"},
        "features": {"images": ["differ", "sides"]},
        "estimators": [
            ["images", left_out, [-0.5, 2.0], 0.0, 1.5, 0.02] for left_out in ("", "a → b")
        ],
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory):
    """Prototypes in the joint space, which are of no use in another; and images without labels."""
    folder = tmp_path_factory.mktemp("predict")
    cb.fit("simpleshot", "mini-weather", OLD, shots=4).save(folder / "old.safetensors")
    task = load_task("mini-weather")
    (folder / "photos" / "more").mkdir(parents=True)
    for i, sample in enumerate(task.split("test")[::2]):
        place = folder / "photos" / ("more" if i % 2 else "") / f"{i}.png"
        task.source.image(sample).save(place)
    return folder


@pytest.mark.slow
def test_harm_is_foreseen_and_the_gate_falls_back(saved: Path) -> None:
    module, asked = saved / "old.safetensors", ("--target", NEW)
    says = output_of("predict", module, *asked, "--images", saved / "photos")
    assert "images without labels" in says
    found = json.loads(output_of("predict", module, *asked, "--images", saved / "photos", "--json"))
    copied, words = found["ways"]
    assert copied["low"] <= copied["gain"] <= copied["high"] < 0
    assert words["gain"] > copied["gain"]
    assert found["advice"] == ("port by words" if words["gain"] > 0 else "fall back to zero-shot")
    blind = cb.predict(module, NEW)
    assert blind.images == 0
    assert blind.ways[0].gain.value < 0
    open_gate, gated = cb.evaluate(module, NEW), cb.evaluate(module, NEW, gate=True)
    assert open_gate.target.gain < 0 == gated.target.gain
    assert gated.note.startswith("The gate falls back to zero-shot: a gain of -")
    assert "The gate falls back" in output_of("evaluate", module, "--target", NEW, "--gate")


def test_mistakes_are_one_line(saved: Path, tmp_path: Path) -> None:
    module = saved / "old.safetensors"
    for images, to, says in (
        (saved / "nothing", NEW, "there is no folder"),
        (tmp_path, NEW, "holds no image"),
        (None, OLD, "needs no prediction on 'mini-clip'"),
        (None, "mini-evaclip", "did you mean mini-eva-clip"),
    ):
        with pytest.raises(cb.CompatbenchError, match=says):
            cb.predict(module, to, images=images)
    with pytest.raises(cb.CompatbenchError, match=r"--gate works with .*not with 'ridge'"):
        cb.evaluate(module, NEW, transfer="ridge", gate=True)


def test_images_of_a_folder_are_its_own_and_few_are_said_to_be(saved: Path, tmp_path: Path) -> None:
    _, fitted = read_fitted(saved / "old.safetensors")
    task = open_images(Path("old"), fitted, saved / "photos")
    found = sorted((saved / "photos").rglob("*.png"))
    assert sorted(Path(task.source.base, one.id) for one in task.split("test")) == found
    # Of equal names and sizes in two folders, the cache must not take one for the other.
    keys = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(found[0].read_bytes())
        with pytest.warns(CompatbenchWarning, match=f"{name} holds 1 images.* too narrow"):
            task = open_images(Path("old"), fitted, tmp_path / name)
        keys.append(task.source.fingerprint(task.split("test")))
    assert keys[0] != keys[1]


def test_a_module_that_cannot_be_attached_gains_nothing(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise NotTransferable("it has no such tower")

    monkeypatch.setattr(builtin_methods().get("simpleshot"), "attach", refuse)
    found = cb.predict(saved / "old.safetensors", NEW)
    assert {(one.gain, one.reason) for one in found.ways} == {(None, "it has no such tower")}
    assert found.advice == "fall back to zero-shot"
