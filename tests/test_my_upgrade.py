"""The commands of the page for owners of modules run on tiny folders, and so does its notebook."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command_line import invoke, output_of
from data.trees import load_again
from notebooks import (
    expect_outputs,
    read_notebook,
    run_notebook,
    texts_of,
    without_times,
    write_photos_and_checkpoint,
)

import compatbench as cb

PAGE = Path(__file__).parents[1] / "docs" / "my-upgrade.md"
VERDICT = "(keep it untouched|port it by words|retrain it|use zero-shot|stay with|cannot tell)"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:compatbench.errors.CompatbenchWarning")
def test_commands_and_notebook_of_my_upgrade_page_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    write_photos_and_checkpoint(tmp_path)
    walks = re.findall(r"(?ms)^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
    assert [len(walk.splitlines()) for walk in walks] == [1, 3, 3, 3, 1, 2]
    advice_shown = []
    for walk in walks:
        lines = [shlex.split(line) for line in walk.splitlines()]
        for command, *words in lines:
            assert command == "compatbench"
            load_again()
            if words[:2] == ["new-task", "photos"] and (tmp_path / "photos.yaml").exists():
                words.append("--replace")  # a walk starts with nothing but the folder
            if words[:2] == ["store", "doctor"]:  # weights of real models are not here
                assert "vit-b16-openai" in invoke(*words).output
                continue
            if words[0] == "run":
                words += ["--jobs", "1"]
            shown = output_of(*words, COLUMNS="80", COMPATBENCH_CARDS="")
        if lines[-1][1] == "advise":
            advice_shown.append(shown)
            assert max(map(len, shown.splitlines())) < 80
    at_once, module, images, neither, compared = advice_shown
    assert "30 test images" in at_once
    assert re.search("(?m)^(Take|We cannot tell which new model to take)", compared)
    assert re.search(f"(?m)^coop: {VERDICT}", module)
    assert "Retraining was not measured." in module
    for text, tasks in (
        (images, r"1 task \(photos\),\s+3\s+seeds\s+and\s+15"),
        (neither, "mini-food"),
    ):
        assert len(re.findall(f"(?m)^(?:taskres|tip_adapter): {VERDICT}", text)) in (2, 4)
        assert re.search(tasks, text)
        assert "  retrained+4 " in text
        assert "these are not" in text

    # The notebook has the same steps, and finished cells are not run again.
    def records() -> dict[Path, int]:
        cells = tmp_path.glob("*/runs/cells/*/*.json")
        return {path: path.stat().st_mtime_ns for path in cells}

    before = records()
    load_again()
    ran = run_notebook("my-upgrade", tmp_path)
    expect_outputs(ran, read_notebook("my-upgrade"))
    printed = "".join(texts_of(ran))
    for text in (module, images, neither):
        assert without_times(text) in printed
    assert records() == before != {}
    advice = cb.advise("photos-upgrade", "taskres", out="photos-trial")
    assert str(advice).splitlines()[1] in images
    assert {"old model", "zero-shot", "copied", "words", "retrained+1"} <= {
        *advice.options["option"]
    }
    by_seed = cb.results("photos-upgrade", "photos-trial").frame.query(
        "method == 'taskres' and transfer == 'copied' and backbone == 'mini-eva-clip'"
    )
    copied = advice.options.set_index("option").loc["copied"]
    assert copied["accuracy"] == pytest.approx(by_seed["accuracy"].mean(), abs=1e-9)
    # One module of that run, measured again.
    file = cb.modules("taskres", "photos-trial").set_index("seed").loc[2, "file"]
    one = cb.advise("photos-upgrade", module=file).options.set_index("option")
    assert [one.index[-1], one["accuracy"].isna().any()] == ["words", False]
    seed = by_seed.set_index("seed")["accuracy"]
    assert one.loc["copied", "accuracy"] == pytest.approx(seed[2], abs=1e-9)
    for words, message in [
        (["--suite", "mini", "--out", "trial", "--methods", "coop"], "'coop'; known: taskres"),
        (["--suite", "mini", "--upgrade", "mini-eva-clip,mini-clip"], "has no upgrade mini-eva"),
        (["--suite", "mini", "--out", "trial", "--tasks", "photos"], "no task of suite 'mini'"),
        (["--suite", "mini", "--out", "trial", "--shots", "3"], "shots: '3' is not one of 16"),
        (["mine.safetensors", "--suite", "photos-b16-upgrade"], "was fitted on 'mini-clip'; suite"),
    ]:
        with pytest.raises(cb.CompatbenchError, match=message):
            invoke("advise", *words)
