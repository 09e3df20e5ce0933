"""Rows of real models, from the doctor to the leaderboard.

The models are small and random, in the files of their authors; the datasets have few small images,
in their original layouts.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backbone.loading_models import CLIP, CONFIGS, EVA, make, save_torchscript
from command_line import forget_files, invoke, output_of
from data.trees import build_tree, write_cards
from open_clip import factory
from safetensors.torch import save_file

import compatbench as cb
from compatbench.data.cards import suite_cards, task_cards
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import hash_file
from compatbench.files.project_folders import shipped_results

SUITE = suite_cards.read("paper-small")
CONFIGS_OF_MODELS = {
    "ViT-B-16-quickgelu": CLIP | {"quick_gelu": True},
    "EVA02-B-16": CONFIGS["Small-eva"] | {"vision_cfg": EVA | {"timm_proj": "linear"}},
}
METHODS = ("tip_adapter", "zeroshot")
SUBMIT = ("maintain", "submit")


@pytest.fixture
def small_models(tmp_path: Path) -> Iterator[None]:
    """Replace the architectures of both models by small ones."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, config in CONFIGS_OF_MODELS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        paths = [*factory._MODEL_CONFIG_PATHS, folder]
        patch.setattr(factory, "_MODEL_CONFIG_PATHS", paths)
        factory._rescan_model_configs()
        yield
    factory._rescan_model_configs()


@pytest.fixture
def machine(small_models: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of the project with results of ``mini``, on a machine without models and images."""
    trees = []
    for name in SUITE.tasks:
        trees.append(build_tree(task_cards.read(name), tmp_path / "data"))
    tasks = write_cards(tmp_path / "tasks", trees)
    write_weights(tmp_path / "weights", tasks)
    monkeypatch.setenv("COMPATBENCH_TASKS", str(tasks))
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("COMPATBENCH_DATA", raising=False)
    clone = tmp_path / "clone"
    mini = clone / "results" / "mini"
    mini.mkdir(parents=True)
    for name in ("gda.csv", "gda.json", "zeroshot.csv", "zeroshot.json", "costs.csv"):
        shutil.copy(shipped_results("mini") / name, mini)
    monkeypatch.chdir(clone)
    forget_files()
    return tmp_path


def write_weights(folder: Path, tasks: Path) -> None:
    """Write the files of OpenAI and of open_clip, with their hashes on the cards."""
    folder.mkdir()
    openai: Any = make("ViT-B-16-quickgelu", seed=3)
    save_torchscript(openai.state_dict(), folder / "ViT-B-16.pt")
    card = tasks / "backbones" / "vit-b16-openai.yaml"
    digest = hash_file(folder / "ViT-B-16.pt")
    text = card.read_text()
    card.write_text(re.sub(r'(ViT-B-16\.pt: ")[0-9a-f]{64}', rf"\g<1>{digest}", text))
    eva: Any = make("EVA02-B-16", seed=4)
    of_eva = folder / "timm" / "eva02_base_patch16_clip_224.merged2b_s8b_b131k"
    of_eva.mkdir(parents=True)
    save_file(eva.state_dict(), of_eva / "open_clip_model.safetensors")


def run_here(**options: Any) -> None:
    """Run the suite in this process, which alone knows the small models."""
    cb.run("paper-small", METHODS, compute=cb.Compute(executor="here"), **options)


@pytest.mark.slow
def test_rows_of_real_models_from_doctor_to_leaderboard(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor = ("store", "doctor", "--suite", "paper-small")
    missing = invoke(" ".join(doctor[:2]), *doctor[2:])
    assert missing.exit_code == 1
    assert "images 1.4 GiB" in missing.output
    monkeypatch.setenv("COMPATBENCH_DATA", str(machine / "data"))
    monkeypatch.setenv("COMPATBENCH_WEIGHTS", str(machine / "weights"))
    forget_files()
    ready = output_of(" ".join(doctor[:2]), *doctor[2:])
    assert "found 3 tasks and 2 backbones" in ready
    assert "To download" not in ready
    with pytest.raises(CompatbenchError, match="paper-small holds no rows; run 'compatbench run"):
        invoke(*SUBMIT, "--name", "Ada")

    # An interrupted run is resumed.
    run_here(tasks="eurosat")
    assert len(cb.plan("paper-small", METHODS).to_do) == 4
    run_here()
    before = Path("leaderboard.md").read_text()
    assert "## Real models" not in before
    output_of("report")
    assert "Real models" not in Path("results/report/index.html").read_text()

    with monkeypatch.context() as patch:
        # No method is imported here: another process plans.
        for user in ("plan", "matrix"):
            patch.delattr(f"compatbench.engine.{user}.builtin_methods")
        shown = output_of(*SUBMIT, "--name", "Ada (github.com/ada)")
    assert "reported: 2 methods of suite 'paper-small'" in shown
    assert "git add results/paper-small leaderboard.md" in shown
    page = Path("leaderboard.md").read_text()
    assert page.index("## Real models") < page.index("## Does my module survive?")
    assert page.count("## Does my module survive?") == 1
    rows = [
        line for line in page.splitlines() if line.endswith("reported by Ada (github.com/ada) |")
    ]
    assert len(rows) == len(METHODS)
    assert page.count("Reported by Ada (github.com/ada): `compatbench run --suite paper-small") == 1
    output_of("report")
    site = Path("results/report/index.html").read_text()
    assert site.count("reported by Ada (github.com/ada)") == len(METHODS)
    stored = json.loads(Path("results/paper-small/reported.json").read_text())
    [report] = stored["reported"]
    assert report["weights"]["vit-b16-openai"] == hash_file(machine / "weights" / "ViT-B-16.pt")
    assert report["command"].endswith("--methods tip_adapter,zeroshot")
    assert report["hardware"]
    assert "torch" in report["versions"]
    assert "findings: 0" in output_of("maintain audit --cells 0 --suite paper-small")
    with pytest.raises(CompatbenchError, match="there are no rows to add"):
        invoke(*SUBMIT, "--name", "Ada (github.com/ada)")

    # Somebody else measures them again, in another folder.
    run_here(out=machine / "again")
    again = ("--again", machine / "again")
    with pytest.raises(CompatbenchError, match="somebody else must measure them again"):
        invoke(*SUBMIT, "--name", "Ada (github.com/ada)", *again)
    assert "measured again: 2 methods" in output_of(*SUBMIT, "--name", "Bob", *again)
    page = Path("leaderboard.md").read_text()
    assert page.count("; measured again by Bob (at most 0.0 points apart) |") == len(METHODS)
    assert page.count("Measured again by Bob: ") == 1
    output_of("report --check")
    site = Path("results/report/index.html").read_text()
    assert site.count("; measured again by Bob (at most 0.0 points apart)") == len(METHODS)

    # On a machine without the models and images, the audit takes the rows as reported.
    monkeypatch.delenv("COMPATBENCH_DATA")
    monkeypatch.delenv("COMPATBENCH_WEIGHTS")
    forget_files()
    audited = output_of("maintain audit --cells 0 --suite paper-small")
    assert "they are reported, not verified" in audited
    with pytest.raises(CompatbenchError, match="report rows on the machine that measured them"):
        invoke(*SUBMIT, "--name", "Eve")

    # Rows that change afterwards are nobody's.
    path = Path("results/paper-small/zeroshot.csv")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    forget_files()
    output_of("report")
    assert Path("leaderboard.md").read_text().count("not reported yet |") == 1
    audited = invoke("maintain audit --cells 0 --suite paper-small").output
    assert "nobody has reported these rows" in audited
