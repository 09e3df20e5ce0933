"""The pages name commands that exist; their commands and code run, or are marked."""

from __future__ import annotations

import copy
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import COMMAND, expect_known, forget_files, output_of
from data.trees import load_again
from formats.files_of_authors import save_coop
from notebooks import expect_outputs, read_notebook, run_notebook

import compatbench.method
from compatbench.backbone import load_backbone
from compatbench.data.cards import backbone_cards
from compatbench.engine import compute
from compatbench.engine.request import parse_shard
from compatbench.extras.check.check import check
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest
from compatbench.method import FeatureSet, load_module
from compatbench.method.batch import draw_batch
from compatbench.method.predictions import Predictions
from compatbench.method.registry import TransferRegistry, builtin_methods
from compatbench.method.transfer import TransferData
from compatbench.results.measures import measure_registry
from compatbench.results.measures.measure_registry import Answers

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
BLOCK = re.compile(r"(?ms)^```(\w+)(?: ([\w-]+))?\n(.*?)^```")
# Marks of blocks that no test runs: they need datasets, weights or a cluster, a network, or time.
MARKS = {"needs-data", "needs-network", "slow"}
# Pages with separate tests, and pages that the test below runs in this order.
ELSEWHERE = {
    "my-upgrade.md": "tests/test_my_upgrade.py::test_commands_and_notebook_of_my_upgrade_page_work",
    "datasets.md": (
        "tests/data/test_new_task.py::test_commands_for_own_images_on_the_datasets_page_work"
    ),
}
WALK = ("tutorial.md", "import.md", "transfers.md", "findings.md")


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, _, code in BLOCK.findall(page.read_text("utf-8")) if kind == language]


def commands_of(pages: Iterable[Path]) -> list[str]:
    """Return all commands of pages, without ``compatbench``."""
    found = set()
    for page in pages:
        for block in blocks(page, "sh"):
            joined = block.replace("\\\n", " ")
            for command in re.findall(r"\bcompatbench ((?:'[^']*'|[^`'#&|>\n])+)", joined):
                found.add(command.strip())
    return sorted(found)


COMMANDS = commands_of(
    [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *DOCS.glob("*.md")]
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_pages_have_known_options(command: str, tmp_path: Path) -> None:
    # The folders on the pages do not exist here: replace those that a command must find.
    words = []
    for word in shlex.split(command):
        words.append(re.sub(r"(/(data|fast/dtd)|^cards)$", str(tmp_path), word))
    expect_known(words)


def without_numbers(line: str) -> str:
    """Return a line without numbers and widths: they differ between processors."""
    return " ".join(re.sub(r"[<+-]?\d[\d.,]*", "#", line).split())


def test_page_of_commands_lists_every_command() -> None:
    table = (DOCS / "commands.md").read_text().split("\n\n")[2]
    named: set[str] = set()
    for row in table.splitlines():
        named.update(re.findall(r"`([a-z -]+)`", row.split("|")[1]))
    existing = set()
    for name, command in COMMAND.commands.items():
        if hasattr(command, "commands"):
            existing |= {f"{name} {inner}" for inner in command.commands}
        else:
            existing.add(name)
    assert named == existing
    assert len(COMMANDS) > 40


def test_every_page_opens_with_its_readers_and_its_question() -> None:
    others = [REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "leaderboard.md"]
    for page in [*DOCS.glob("*.md"), *others]:
        title, *paragraphs = page.read_text(encoding="utf-8").split("\n\n")
        opening = next(text for text in paragraphs if not text.startswith("<!--"))
        assert title.startswith("# "), page
        assert opening.startswith("For "), page
        assert len(opening.split()) > 9, page


def test_every_promise_links_its_test() -> None:
    page = (DOCS / "trust.md").read_text(encoding="utf-8")
    promised = page.split("\n## Not promised")[0]
    promises = re.findall(r"(?ms)^\* \*\*.*?(?=\n\*|\n\n|\Z)", promised)
    assert len(promises) >= 15
    for promise in promises:
        assert re.search(r"\[test\]\(\.\./tests/[\w/]+/test_\w+\.py\)", promise), promise


def test_models_of_the_readme_s_advice_have_cards() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^compatbench (advise .*)$", text, re.MULTILINE)
    words = shlex.split(command)
    expect_known(words)
    for option in ("--source", "--target"):
        assert words[words.index(option) + 1] in backbone_cards.names()


def test_readme_counts_the_methods() -> None:
    registry = builtin_methods()
    cards = [registry.get(name).card for name in registry.names()]
    learning = sum(card.learns for card in cards)
    others = len(cards) - learning
    text = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    assert f"for {learning} methods, ranks them and {others} methods that train nothing" in text


def test_slurm_example_is_a_valid_script() -> None:
    script = DOCS / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    [command] = re.findall(r"^compatbench (.*)$", text, re.MULTILINE)
    command = command.replace("$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT", "3/16")
    words = shlex.split(command)
    expect_known(words)
    assert parse_shard(words[words.index("--shard") + 1]) == (3, 16)


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
def test_commands_of_pages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the tutorial in an empty folder, then the other pages on its results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    builtin_methods.cache_clear()

    def run(line: str) -> str:
        command, *words = shlex.split(line, comments=True)
        assert command == "compatbench"
        load_again()
        jobs = ["--jobs", "1"] if words[0] == "run" else []
        return output_of(*words, *jobs, COLUMNS="110")

    def walk(page: str) -> str:
        shown = ""
        for language, mark, code in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
            if language == "python" and page == "tutorial.md":
                exec(code, {})
            elif language == "sh" and not mark:
                for line in code.splitlines():
                    shown += run(line)
        return shown

    shown = walk("tutorial.md")
    lines_shown = {without_numbers(line) for line in shown.splitlines()}
    [printed] = blocks(DOCS / "tutorial.md", "text")
    for line in printed.splitlines():
        assert without_numbers(line) in lines_shown
    verdicts = re.findall(r"(?m)^(\w+): (?:keep|port|retrain|use|stay|cannot tell)", shown)
    assert sorted(verdicts) == ["mine", "taskres"]

    names = sorted(os.listdir("photos"))
    save_coop(Path("output/seed1"), load_backbone("mini-clip"), names)
    assert "coop" in walk("import.md")
    for module in Path("runs/modules").glob("*/*.safetensors"):
        about = load_module(module).about
        if (about["method"], about["task"]) == ("taskres", "photos"):
            shutil.copy(module, "MODULE.safetensors")
    walk("transfers.md")
    shutil.copytree(DOCS.parent / "results" / "mini", "results/mini")
    assert "contradicted" in walk("findings.md")


@pytest.mark.slow
def test_code_of_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs with one worker, on some of the committed results."""
    results = tmp_path / "results" / "mini"
    results.mkdir(parents=True)
    for name in ("zeroshot", "coop", "tip_adapter"):
        for path in (REPOSITORY / "results" / "mini").glob(f"{name}.*"):
            shutil.copy(path, results)
    (tmp_path / "mine.py").symlink_to(REPOSITORY / "methods" / "kgcoop.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compute, "count_cores", lambda: 1)
    forget_files()
    exec("\n".join(blocks(DOCS / "python.md", "python")), {})


@pytest.mark.slow
def test_example_methods_pass_their_checks(tmp_path: Path) -> None:
    files = [code for code in blocks(DOCS / "adding-a-method.md", "python") if code[:3] == '"""']
    places = [tmp_path / f"example{number}.py" for number in range(len(files))]
    for place, code in zip(places, files, strict=True):
        place.write_text(code, encoding="utf-8")
    for kind in ("text-input", "image-layers"):
        assert f'"{kind}"' in str(files)
    outcomes = check(",".join(map(str, places)))
    assert len(outcomes["method"].unique()) == len(files)
    assert outcomes.query("status != 'pass'")[["check", "reason"]].to_numpy().tolist() == []


def test_example_measure_counts_what_its_sentence_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_registry, "_MEASURES", dict(measure_registry._MEASURES))
    [code] = blocks(DOCS / "api.md", "python")
    shown: dict[str, Any] = {"__name__": "lost"}
    exec(code, shown)
    with_module = Predictions(torch.tensor([0, 1, 2, 3]), torch.ones(4))
    zero_shot = Predictions(torch.tensor([0, 0, 0, 0]), torch.ones(4))
    answers = Answers(with_module, None, zero_shot, [1, 0, 0, 3])
    assert shown["lost"](answers) == 50
    lost = measure_registry._MEASURES["answers", "lost"]
    assert lost.sentence.startswith("images that zero-shot classifies correctly and the module")


def test_table_of_a_batch_is_true() -> None:
    """On the API page: the fields of a batch with features, and with another input."""
    features = torch.rand(2, 2, 16)
    tokens = [torch.rand(2, 5, 8), torch.rand(2, 5, 8)]
    targets = torch.tensor([0, 1])
    rows = (torch.arange(2), torch.arange(2), torch.arange(0))
    tested = MethodUnderTest(builtin_methods().get("taskres"))
    for inputs in (None, tokens):
        images = FeatureSet(features[0], features, targets, inputs)
        batch = draw_batch(tested.source, images, LABELS, rows, 1, torch.Generator(), None)
        assert torch.equal(batch.features, features[1])
        assert torch.equal(batch.other_view, features[0])
        if inputs is None:
            assert batch.tokens is None
            assert batch.inputs is batch.features
        else:
            assert torch.equal(batch.tokens, tokens[1])
            assert batch.inputs is batch.tokens


def test_public_names_of_methods_are_on_the_page() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    names = {"search_number", "Batch", "Recipe", "Transfer", *compatbench.method.__all__}
    unlisted = {name for name in names if not re.search(rf"\b{name}\b", page)}
    assert unlisted == {"MethodConfig", "Rows", "load_module", "read_settings"}


def test_example_transfer_with_settings_works(tmp_path: Path) -> None:
    [code] = [code for code in blocks(DOCS / "transfers.md", "python") if "Transfer)" in code]
    place = tmp_path / "blended.py"
    place.write_text(code, encoding="utf-8")
    registry = TransferRegistry()
    labels = registry.choose([f"{place}+4", f"{place}+wary+4"])
    assert labels == ["blended+4", "blended+wary+4"]
    tested = MethodUnderTest(builtin_methods().get("taskres"))
    shots = copy.copy(tested)
    shots.source = tested.target
    for label in labels:
        transfer = registry.build(label)
        data = TransferData(transfer, labels=shots.draw(shots=4))
        classify = transfer.attach(tested.build(), tested.module, tested.target, LABELS, data)
        logits = classify(tested.inputs(tested.target))
        assert logits.shape == (7, len(LABELS))
        assert logits.isfinite().all()


@pytest.mark.slow
def test_quickstart_notebook_runs(tmp_path: Path) -> None:
    """It prints the committed outputs, and its progress ends as one line."""
    ran = run_notebook("quickstart", tmp_path)
    expect_outputs(ran, read_notebook("quickstart"))
    run, _ = [cell for cell in ran.cells if "cb.run(" in cell.source]
    shown, ranking = run.outputs
    assert re.fullmatch(r"3 of 3 cells in \d+ (s|min)", shown.data["text/plain"])
    assert "Tip-Adapter" in ranking.data["text/html"]
