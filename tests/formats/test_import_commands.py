"""``import``, ``export`` and ``evaluate`` with checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import invoke, output_of

import compatbench as cb
from compatbench.backbone import load_backbone
from compatbench.data.task import task_labels

from .files_of_authors import drawer, save_coop, save_head

PLACE = ("--task", "mini-food", "--source", "mini-clip")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:compatbench.errors.CompatbenchWarning")
def test_checkpoint_can_be_imported_evaluated_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint has prompts for the base half of a mini task."""
    names = task_labels("mini-food").names[:10]
    checkpoint = save_coop(tmp_path, load_backbone("mini-clip"), names)
    monkeypatch.chdir(tmp_path)
    shown = output_of("module import", "--inspect", checkpoint)
    for text in (f"{checkpoint}: format coop", "ctx", "float16"):
        assert text in shown
    shown = output_of("module import", "auto", checkpoint, *PLACE, "--classes", "base")
    assert "wrote coop-mini-food.safetensors: <Module coop / mini-food / mini-clip" in shown
    assert "classes and source: confirmed by the file" in shown
    with pytest.raises(cb.CompatbenchError, match="exists; give another --out"):
        invoke("module import", "coop", checkpoint, *PLACE, "--classes", "base")
    to = ("--target", "mini-eva-clip", "--json")
    found = json.loads(output_of("evaluate", "coop-mini-food.safetensors", *to))
    assert (found["images"], found["imported"]["format"]) == (139, "coop")
    again = output_of("evaluate", checkpoint, *PLACE, "--classes", "base", *to)
    assert json.loads(again) == found
    shown = output_of(
        "module export", "coop", "coop-mini-food.safetensors", "back/model.pth.tar-50"
    )
    assert "wrote back/model.pth.tar-50" in shown
    state = torch.load("back/model.pth.tar-50", weights_only=True)["state_dict"]
    assert torch.equal(state["ctx"], drawer()(*state["ctx"].shape))


@pytest.mark.filterwarnings("ignore:.*:compatbench.errors.CompatbenchWarning")
def test_probe_with_unnamed_rows_in_another_order_is_not_judged_as_if_it_were_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backbone = load_backbone("mini-clip")
    with torch.no_grad():
        rows = backbone.zero_shot(task_labels("mini-food"))
    save_head(tmp_path / "probe.npz", coef=rows.roll(3, 0), intercept=torch.zeros(len(rows)))
    shown = output_of("evaluate", "probe.npz", *PLACE, "--target", "mini-eva-clip")
    words = " ".join(shown.split())
    assert "normalized: " in words
    assert "the file does not contain it" in words
    assert "significantly worse than zero-shot on its own source" in words
    assert "--class-names FILE" in shown
    names = [task_labels("mini-food").names[row - 3] for row in range(len(rows))]
    (tmp_path / "names.txt").write_text("\n".join(names))
    words = (*PLACE, "--target", "mini-eva-clip", "--class-names", "names.txt")
    shown = output_of("evaluate", "probe.npz", *words)
    assert "significantly worse" not in shown
