"""One command from images and a checkpoint to advice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import invoke, output_of
from data.trees import load_again
from notebooks import write_photos_and_checkpoint

import compatbench as cb
from compatbench.errors import CompatbenchWarning
from compatbench.extras.advice.own_images import are_images

UPGRADE = {"source": "mini-clip", "target": "mini-eva-clip"}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with ``photos/``, 30 images of three classes, and a checkpoint of CoOp."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    write_photos_and_checkpoint(tmp_path)
    load_again()
    return tmp_path


def test_folder_and_checkpoint_lead_to_advice(work: Path) -> None:
    with pytest.warns(CompatbenchWarning, match="not shown to be better than zero-shot on its"):
        advice = cb.advise("photos", module="output/seed1", **UPGRADE)
    [row] = advice.frame.to_dict("records")
    # All images are tested: nothing has to be trained on any of them.
    assert (row["method"], row["images"], row["seeds"]) == ("coop", 30, 1)
    assert {"old model", "zero-shot", "copied"} <= set(advice.options["option"])
    assert [*advice.targets["target"]] == ["mini-eva-clip"]
    # The task that was made can be used by other commands; there, images are split as usual.
    assert {"photos.yaml", "photos.csv", "photos-upgrade.yaml"} <= {
        path.name for path in work.iterdir()
    }
    evaluation = cb.evaluate("output/seed1", "mini-eva-clip", "photos", source="mini-clip")
    assert evaluation.images == 15


@pytest.mark.filterwarnings("ignore:.*:compatbench.errors.CompatbenchWarning")
def test_command_reuses_the_task_wherever_the_images_are(work: Path) -> None:
    (work / "elsewhere").mkdir()
    (work / "photos").rename(work / "elsewhere" / "photos")
    words = ["advise", "elsewhere/photos", "--module", "output/seed1", "--source", "mini-clip"]
    words += ["--target", "mini-eva-clip,mini-eva-clip-anew", "--out", "cards"]
    first = output_of(*words, COLUMNS="80", COMPATBENCH_CARDS="")
    assert "mini-eva-clip-anew" in first
    assert "30 test images" in first
    card = (work / "cards" / "photos.yaml").stat().st_mtime_ns
    load_again()
    again = output_of(*words, COLUMNS="80", COMPATBENCH_CARDS="")
    assert again.split("We cannot tell")[1] == first.split("We cannot tell")[1]
    assert (work / "cards" / "photos.yaml").stat().st_mtime_ns == card


@pytest.mark.filterwarnings("ignore:.*:compatbench.errors.CompatbenchWarning")
def test_several_modules_are_compared_on_the_test_images_of_a_task(work: Path) -> None:
    modules = [
        cb.fit(method, task="mini-food", source="mini-clip", shots=4, views=1)
        for method in ("tip_adapter", "proker")
    ]
    advice = cb.advise("mini-food", module=modules, target="mini-eva-clip")
    frame = advice.frame.set_index("method")
    assert [*frame.index] == ["tip_adapter", "proker"]
    assert set(frame["images"]) == {277}
    assert advice.targets.iloc[0]["methods"] == 2
    expected = cb.evaluate(modules[1], "mini-eva-clip").effect
    assert expected is not None
    shown = advice.options.set_index(["method", "option"]).loc[("proker", "copied")]
    assert (shown["gain"], shown["gain_low"]) == (expected.value, expected.low)


def test_module_that_loses_on_its_own_model_is_refused(work: Path) -> None:
    """The rows of its classes are in another order than the classes."""
    module = cb.fit("linear_probe", task="mini-food", source="mini-clip", shots=16, views=1)
    rows = {name: tensor.flip(0) for name, tensor in module.trained.items()}
    mixed = type(module)(rows, module.stored, module.about)
    with pytest.raises(cb.CompatbenchError, match="does not look like a module for these classes"):
        cb.advise("mini-food", module=mixed, target="mini-eva-clip")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos"], "photos is a folder; give the module"),
        (["photos", "--module", "output/seed1", "--source", "mini-clip"], "give the new models"),
        (["photos", "--module", "output/seed1", "--target", "mini-eva-clip"], "--source"),
        (["--module", "output/seed1"], "--module needs your images"),
        (["photos", "--source", "mini-clip"], "--source needs --module"),
    ],
)
def test_what_is_missing_is_said(work: Path, words: list[str], message: str) -> None:
    with pytest.raises(cb.CompatbenchError, match=message):
        invoke("advise", *words)


def test_a_suite_is_no_folder_of_images(work: Path) -> None:
    (work / "mini").mkdir()
    names = ("mini", "photos", "mini-food", "nothing", "suite.yaml")
    (work / "suite.yaml").write_text("")
    assert [are_images(name) for name in names] == [False, True, True, False, False]
    assert np.all([are_images(work / "photos")])
