"""Commands of docs/ are run, or marked with the reason why they are not."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from command_line import output_of
from data.trees import load_again
from formats.files_of_authors import buffers, drawer, save_dassl

from compatbench.backbone import load_backbone
from compatbench.errors import CompatbenchWarning
from compatbench.method import load_module
from compatbench.method.registry import builtin_methods

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(?ms)^```(\w+)(?: ([\w-]+))?\n(.*?)^```")
# Of a block that no test runs: datasets, weights or a cluster that are not here; a network; time.
MARKS = {"needs-data", "needs-network", "slow"}
# Pages with tests of their own, and those that the test below runs one after the other.
ELSEWHERE = {
    "my-upgrade.md": "tests/test_my_upgrade.py::test_the_page_is_true",
    "own-data.md": "tests/data/test_new_task.py::test_the_page_on_own_data_is_true",
}
WALK = (
    "tutorial.md",
    "import.md",
    "transfers.md",
    "predict.md",
    "reliability.md",
    "analysis.md",
)


def test_every_block_of_commands_is_run_or_marked() -> None:
    for page in DOCS.rglob("*.md"):
        for language, mark, code in BLOCK.findall(page.read_text(encoding="utf-8")):
            assert language not in ("bash", "shell", "console"), f"{page}: write 'sh'"
            if language == "sh" and not mark:
                assert page.name in (*ELSEWHERE, *WALK), f"{page}: nothing runs\n{code}"
            assert not mark or (language == "sh" and mark in MARKS), f"{page}: mark '{mark}'"
    for test in ELSEWHERE.values():
        path, name = test.split("::")
        assert f"\ndef {name}(" in (DOCS.parent / path).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tutorial in an empty folder, then the other pages with what it leaves there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    builtin_methods.cache_clear()

    def run(line: str, **replaced: str) -> str:
        command, *words = shlex.split(line, comments=True)
        assert command == "compatbench"
        load_again()
        for name, value in replaced.items():
            words = [word.replace(name, value) for word in words]
        jobs = ["--jobs", "1"] if words[0] == "run" else []
        return output_of(*words, *jobs, COLUMNS="80")

    def walk(page: str, **replaced: str) -> str:
        shown = ""
        for language, mark, code in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
            if language == "python" and page == "tutorial.md":
                exec(code, {})
            elif language == "sh" and not mark:
                shown += "".join(run(line, **replaced) for line in code.splitlines())
        return shown

    shown = walk("tutorial.md")
    for language, _, printed in BLOCK.findall((DOCS / "tutorial.md").read_text(encoding="utf-8")):
        if language == "text":  # numbers may differ by an image between processors
            columns = printed.splitlines()[:2]
            assert all(line in shown.splitlines() for line in columns)
    verdicts = re.findall(r"(?m)^(\w+): (?:keep|port|retrain|use)", shown)
    assert sorted(verdicts) == ["mine", "taskres"]

    backbone, names = load_backbone("mini-clip"), sorted(os.listdir("photos"))
    state = {"ctx": drawer()(4, backbone.token_width)}
    save_dassl(Path("output/seed1"), state | buffers(backbone, tuple(names), 4))
    imported = "import coop output/seed1 --task photos --source mini-clip --out mine.safetensors"
    run(f"compatbench {imported}")
    assert "coop" in walk("import.md")
    modules = {one: load_module(one).about for one in Path("runs/modules").glob("*/*.safetensors")}
    wanted = {"method": "taskres", "task": "photos"}
    [module, *_] = [one for one, about in modules.items() if wanted.items() <= about.items()]
    shutil.copy(module, "MODULE.safetensors")
    walk("transfers.md")
    with pytest.warns(CompatbenchWarning, match="photos holds 60 images"):
        walk("predict.md", FOLDER="photos")
    cell = next(Path("runs/cells").glob("*/*.json")).stem
    walk("reliability.md", **{"3f2a": cell})  # the beginning of any cell's key
    shutil.copytree(DOCS.parent / "results" / "mini", "results/mini")
    assert "contradicted" in walk("analysis.md")
