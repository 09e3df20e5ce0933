"""The commands of the page for owners of modules run on a small folder; so does its notebook."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command_line import output_of
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
BLOCK = re.compile(r"(?ms)^```sh\n(.*?)^```(?:\n\n```text\n(.*?)^```)?")
QUIET = "ignore:.*:compatbench.errors.CompatbenchWarning"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    write_photos_and_checkpoint(tmp_path)
    load_again()
    return tmp_path


def without_numbers(text: str) -> list[list[str]]:
    """Return the words of each line without numbers, which differ between processors."""
    return [re.sub(r"[-+]?\d+(\.\d+)?", "0", line).split() for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.filterwarnings(QUIET)
def test_commands_and_notebook_of_my_upgrade_page_work(photos: Path) -> None:
    """Text that the page shows is what its command prints."""
    walks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert [bool(text) for _, text in walks] == [True, False, False]
    printed = []
    for command, text in walks:
        [line] = command.splitlines()
        _, *words = shlex.split(line)
        load_again()
        printed.append(output_of(*words, COLUMNS="80", COMPATBENCH_CARDS=""))
        if text:
            assert without_numbers(printed[-1]) == without_numbers(text)
    assert re.search("(?m)^(Take|We cannot tell which new model to take)", printed[-1])

    # The notebook has the same steps, and finished cells are not run again.
    def records() -> dict[Path, int]:
        cells = photos.glob("runs/cells/*/*.json")
        return {path: path.stat().st_mtime_ns for path in cells}

    before = records()
    load_again()
    ran = run_notebook("my-upgrade", photos)
    expect_outputs(ran, read_notebook("my-upgrade"))
    shown = "".join(texts_of(ran))
    for text in printed[:2]:
        assert without_times(text.splitlines()[0]) in shown
    assert records() == before != {}


@pytest.mark.slow
@pytest.mark.filterwarnings(QUIET)
def test_module_of_a_run_is_measured_as_in_the_run(photos: Path) -> None:
    cb.new_task("photos")
    cb.run("photos-upgrade", "taskres", seeds=[1], out="trial", progress=False)
    frame = cb.results("photos-upgrade", "trial").frame
    [expected] = frame.query("method == 'taskres' and backbone == 'mini-eva-clip'")["accuracy"]
    [file] = cb.modules("taskres", "trial")["file"]
    advice = cb.advise("photos-upgrade", module=file)
    options = advice.options.set_index("option")
    assert options.loc["copied", "accuracy"] == pytest.approx(expected, abs=1e-9)
    assert not options["accuracy"].isna().any()
    for upgrade, message in [
        ("mini-eva-clip,mini-clip", "has no upgrade mini-eva"),
        ("mini-clip", "has no upgrade mini-clip"),
    ]:
        with pytest.raises(cb.CompatbenchError, match=message):
            cb.advise("photos-upgrade", upgrade=upgrade, out="trial")
