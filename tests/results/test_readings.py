"""Settings that a file does not contain are chosen by the answers to images, and printed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import compatbench as cb
from compatbench.engine.single_module import Fitted
from compatbench.errors import CompatbenchWarning
from compatbench.method.predictions import Predictions
from compatbench.results.evaluation import settle_module
from compatbench.results.measures import Answers
from compatbench.results.readings import settle_readings

IMAGES = 100
FITTED = Fitted(
    method="coop",
    config={"position": "end"},
    task="things",
    source="old",
    imported={"file": "a.pth", "notes": [], "undecided": {"position": ["end", "middle", "front"]}},
)


def answers(right: int, confidence: float) -> Answers:
    """Return answers of which the first ``right`` are right."""
    classes = (torch.arange(IMAGES) >= right).int()
    predictions = Predictions(classes, torch.full((IMAGES,), confidence))
    return Answers(predictions, None, predictions, torch.zeros(IMAGES, dtype=torch.int64))


def choose(**readings: Answers) -> str:
    """Return the position that is chosen."""

    def measure(config: Mapping[str, Any]) -> Answers:
        return readings[config["position"]]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settled = settle_readings(FITTED, measure)
    assert settled.imported is not None
    assert "undecided" not in settled.imported
    assert "accuracy on old: end" in settled.imported["readings"]["position"]["note"]
    position = settled.config["position"]
    assert len(caught) == (position != "end")
    return position


def test_reading_is_chosen_by_accuracy_then_by_confidence_and_else_the_usual_one() -> None:
    low = answers(40, 0.5)
    assert choose(end=low, middle=answers(80, 0.7), front=answers(60, 0.6)) == "middle"
    assert choose(end=low, middle=answers(42, 0.4), front=answers(20, 0.4)) == "end"
    # Logits that are far too large: nearly the same classes, and absurd confidences.
    assert choose(end=answers(60, 1), middle=answers(61, 0.6), front=answers(60, 1)) == "middle"
    # With equal accuracy, modules that learned from few images are too sure of themselves, too.
    assert choose(end=answers(60, 1), middle=answers(60, 0.6), front=answers(60, 1)) == "end"


def test_note_says_whether_the_images_show_the_reading() -> None:
    readings = {"end": answers(40, 0.5), "middle": answers(42, 0.5), "front": answers(20, 0.5)}
    fitted = settle_readings(FITTED, lambda config: readings[config["position"]])
    reading = (fitted.imported or {})["readings"]["position"]
    usual = "position: end, the usual reading; the file does not contain it, and 100 images cannot"
    assert reading["note"].startswith(usual)
    assert not reading["is_shown"]
    readings["middle"] = readings["front"]
    fitted = settle_readings(FITTED, lambda config: readings[config["position"]])
    reading = (fitted.imported or {})["readings"]["position"]
    assert reading["note"].startswith("position: end, chosen on the images, because the file does")
    assert reading["is_shown"]


def test_probe_on_normalised_features_is_recognised_on_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    probe = cb.fit(
        "linear_probe", "mini-food", "mini-clip", shots=4, config={"normalized": True}, views=1
    )
    cb.export_module("linear_normalized", probe, "probe.npz")
    module = cb.import_module("auto", "probe.npz", "mini-food", "mini-clip")
    assert module.about["config"]["normalized"] is False
    with pytest.warns(CompatbenchWarning, match=r"probe\.npz: normalized: True"):
        found = cb.evaluate(module, "mini-clip")
    assert found.fitted.config["normalized"] is True
    assert found.target is not None
    expected = cb.evaluate(probe, "mini-clip").target
    assert expected is not None
    assert found.target.accuracy == expected.accuracy
    with pytest.warns(CompatbenchWarning, match="normalized: True"):
        settled = settle_module(module, "mini-food")
    assert settled.about["config"]["normalized"] is True
    assert settle_module(settled, "mini-food") is settled
    known = cb.import_module(
        "linear", "probe.npz", "mini-food", "mini-clip", settings={"normalized": True}
    )
    assert settle_module(known, "mini-food") is known


def test_classes_of_other_spellings_are_the_same_classes() -> None:
    module = cb.fit("proker", "mini-food", "mini-clip", shots=1, views=1)
    expected = cb.evaluate(module, "mini-clip").target
    names = module.about["labels"]["names"]
    spelled = [f"The_{name.upper().replace(' ', '_')}" for name in names]
    labels = module.about["labels"] | {"names": spelled}
    other = cb.evaluate(
        type(module)(module.trained, module.stored, module.about | {"labels": labels}), "mini-clip"
    ).target
    assert expected is not None
    assert other is not None
    assert torch.equal(expected.predictions.classes, other.predictions.classes)
