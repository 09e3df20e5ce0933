"""Advice on models in the files that their authors publish: small ones of the same layout."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from backbone.loading_models import CONFIGS, write_model
from data.trees import load_again
from formats.files_of_authors import save_coop
from hub_stand_in import Hub
from notebooks import write_photos
from safetensors.torch import save_file
from tiny_models import randomise

import compatbench as cb
from compatbench.backbone import load_backbone
from compatbench.data.task import load_task
from compatbench.method.registry import builtin_methods


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return a CLIP with the layout of ViT-B/16, and a SigLIP in transformers' format."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    config: dict[str, Any] = CONFIGS["Small"] | {"quick_gelu": True}
    config["text_cfg"] = config["text_cfg"] | {"width": 32}
    settings = {"model_cfg": config, "preprocess_cfg": {}}
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    model = randomise(open_clip.model.CLIP(**config), 1)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors", {"format": "pt"})
    write_model(tmp_path / "siglip2", "siglip")
    load_again()
    return f"local-dir:{folder}", f"hf:{tmp_path / 'siglip2'}"


@pytest.mark.filterwarnings("ignore:.*:compatbench.errors.CompatbenchWarning")
def test_clip_checkpoint_is_judged_on_siglip_2(models: tuple[str, str]) -> None:
    source, target = models
    names = write_photos(Path("photos"))
    save_coop(Path("output"), load_backbone(source), names)
    advice = cb.advise("photos", module="output", source=source, target=target)
    options = advice.options.set_index("option")
    assert options.loc[["old model", "zero-shot", "copied"], "accuracy"].between(0, 100).all()
    assert str(advice).startswith(f"{target}: ")
    assert advice.targets["tokens"].isna().all()  # only the model's own files have it


@pytest.mark.filterwarnings("ignore:.*:compatbench.errors.CompatbenchWarning")
def test_fine_tuned_model_of_transformers_is_judged_on_its_own_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    write_photos(Path("photos"))
    write_model(tmp_path / "old", "clip")
    tuned = write_model(tmp_path / "tuned", "clip", seed=2)
    load_again()
    source = f"hf:{tmp_path / 'old'}"
    cb.new_task("photos")
    module = cb.import_module("auto", "tuned/model.safetensors", "photos", source)
    backbone = load_backbone(source)
    labels = load_task("photos").labels
    method = builtin_methods().get("flyp")()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = method.attach(module, backbone, labels)(images)
        total = torch.zeros(3, 16)
        for template in labels.templates:
            ids = backbone.tokenizer(list(labels.fill(template)))
            total += F.normalize(tuned.get_text_features(input_ids=ids).pooler_output, dim=-1)
        features = tuned.get_image_features(pixel_values=images).pooler_output
        cosines = F.normalize(features, dim=-1) @ F.normalize(total, dim=-1).T
    torch.testing.assert_close(found, tuned.logit_scale.exp() * cosines, rtol=1e-4, atol=1e-4)
    advice = cb.advise("photos", module="tuned", source=source, target="mini-eva-clip")
    assert "cannot be attached" in str(advice)  # its towers have other sizes
    write_model(tmp_path / "siglip", "siglip")
    with pytest.raises(cb.CompatbenchError, match="give an adapter of PEFT"):
        cb.import_module("auto", "siglip", "photos", f"hf:{tmp_path / 'siglip'}")


@pytest.mark.slow
def test_methods_are_trained_on_clip_and_retrained_on_siglip_2(models: tuple[str, str]) -> None:
    source, target = models
    write_photos(Path("photos"))
    advice = cb.advise(
        "photos", source=source, target=target, methods="tip_adapter", labels=1, progress=False
    )
    options = advice.options.set_index("option")
    assert options.loc["copied", "reason"]  # its keys have another width
    assert options.loc["retrained+1", "accuracy"] >= 0
    assert list(Path("photos-modules").glob("tip_adapter*"))


def read_part(terminal: int) -> bytes:
    """Return what a terminal shows next; nothing once its command has ended."""
    with contextlib.suppress(OSError):
        return os.read(terminal, 1000)
    return b""


def answer(words: list[str], reply: bytes, **environment: str) -> tuple[str, int]:
    """Run a command on a terminal, answer its question, and return its output and exit code."""
    ours, theirs = pty.openpty()  # the two ends of a terminal
    command = [sys.executable, "-m", "compatbench", *words]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    environment = {**os.environ, "COLUMNS": "100", **environment}
    shown = b""
    with subprocess.Popen(command, env=environment, start_new_session=True, **streams) as process:
        os.close(theirs)
        part = read_part(ours)
        while part:
            shown += part
            if shown.rstrip().endswith(b"[y/N]:"):
                os.write(ours, reply)
            part = read_part(ours)
    os.close(ours)
    return shown.decode().replace("\r", ""), process.returncode


@pytest.mark.slow
def test_terminal_asks_before_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hub = Hub()
    write_model(tmp_path / "siglip2", "siglip")
    files = hub.repositories["us/siglip2"] = {}
    for path in (tmp_path / "siglip2").iterdir():
        files[path.name] = path.read_bytes()
    names = write_photos(Path("photos"))
    save_coop(Path("output"), load_backbone("mini-clip"), names)
    online = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    online |= {"COMPATBENCH_CARDS": "", "NO_PROXY": "127.0.0.1"}
    words = ["advise", "photos", "--module", "output", "--source", "mini-clip"]
    words += ["--target", "hf:us/siglip2"]
    shown, code = answer(words, b"n\n", **online)
    assert re.search(r"us/siglip2/model.safetensors +\d+\.\d KiB +unknown", shown)
    assert "Download these files? [y/N]" in shown
    assert "must be downloaded first; to agree, add --yes" in shown
    assert code == 2
    assert hub.ranges == []
    shown, code = answer(words, b"y\n", **online)
    assert "hf:us/siglip2: coop cannot be attached" in shown  # its text tower is narrower
    assert code == 0
    assert len(hub.ranges) == len(files)
    hub.http.shutdown()
    hub.http.server_close()
