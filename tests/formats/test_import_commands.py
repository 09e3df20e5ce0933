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

from .files_of_authors import drawer, save_coop

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
