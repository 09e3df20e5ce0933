"""Advice on ViT-B/16, EVA02-B/16 and SigLIP 2, from files as their authors publish them.

The weights are random. The models have two of their twelve blocks, and SigLIP 2 has few words;
with COMPATBENCH_LONG_TESTS=1 they have their full size, and the tests take some minutes.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import timm
import torch
from backbone.loading_models import eva_names, put_in_hub_cache, save_torchscript, write_tokenizer
from command_line import output_of
from data.trees import load_again
from formats.files_of_authors import save_coop, save_head, save_peft
from open_clip import factory
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from safetensors.torch import save_file
from tiny_models import randomise

import compatbench as cb
from compatbench.backbone import load_backbone
from compatbench.backbone.load.mini_towers import register_mini_towers
from compatbench.backbone.words import load_words
from compatbench.data.task import load_task
from compatbench.engine.compute import Compute
from compatbench.extras.advice.advice import Advice
from compatbench.extras.advice.cross_fit import CHEAP_METHODS
from compatbench.files.project_folders import tasks_folder

pytest.importorskip("transformers")  # for the tokenizer of SigLIP 2
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*:compatbench.errors.CompatbenchWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]
FULL_SIZE = "COMPATBENCH_LONG_TESTS" in os.environ
BLOCKS = 12 if FULL_SIZE else 2
VOCABULARY = 256_000 if FULL_SIZE else 16  # of SigLIP 2
NAMES = ("dog", "tree")  # words of the small tokenizer
IMAGES = 2  # of each class


@pytest.fixture(scope="module", autouse=True)
def _sizes() -> Iterator[None]:
    """Let open_clip build models with fewer blocks."""
    register_mini_towers(tasks_folder())  # later, it would read all configurations again
    with pytest.MonkeyPatch.context() as patch:
        build = timm.create_model
        patch.setattr(timm, "create_model", lambda *a, **named: build(*a, **named, depth=BLOCKS))
        for name in ("ViT-B-16-quickgelu", "EVA02-B-16", "ViT-B-16-SigLIP2"):
            config: Any = factory.get_model_config(name)
            config["text_cfg"]["layers"] = BLOCKS
            if "layers" in config["vision_cfg"]:
                config["vision_cfg"]["layers"] = BLOCKS
            if "hf_tokenizer_name" in config["text_cfg"]:
                config["text_cfg"]["vocab_size"] = VOCABULARY
            patch.setitem(factory._MODEL_CONFIGS, name, config)
        yield


def make_weights(name: str) -> dict[str, torch.Tensor]:
    """Return random weights of a model in half precision, by open_clip's names."""
    model: Any = open_clip.create_model(name)
    bias = model._parameters.pop("logit_bias", None)  # a single number
    randomise(model, 1)
    if bias is not None:
        model.logit_bias = bias
    return {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder of weights: OpenAI's archive, EVA-CLIP's checkpoint, and timm's SigLIP 2."""
    folder = tmp_path_factory.mktemp("weights")
    save_torchscript(make_weights("ViT-B-16-quickgelu"), folder / "ViT-B-16.pt")
    eva = {"module": eva_names(make_weights("EVA02-B-16"))}
    torch.save(eva, folder / "EVA02_CLIP_B_psz16_s8B.pt")
    name = "open_clip_model.safetensors"
    siglip = put_in_hub_cache(folder, "timm/ViT-B-16-SigLIP2", name)
    save_file(make_weights("ViT-B-16-SigLIP2"), siglip)
    write_tokenizer(siglip.parent, "siglip")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def source(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write photos and a list of them, and return the name of the old model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPATBENCH_CARDS", "")
    monkeypatch.setenv("COMPATBENCH_WEIGHTS", str(published))
    monkeypatch.setenv("COMPATBENCH_TRUST_PICKLE", "1")  # the archive's hash is not OpenAI's
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    few = load_words()[:50]
    monkeypatch.setattr("compatbench.backbone.words.load_words", lambda: few)
    rng = np.random.default_rng(1)
    with Path("list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        for name in NAMES:
            folder = tmp_path / "photos" / name
            folder.mkdir(parents=True)
            for number in range(IMAGES):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                photo = Image.fromarray(pixels).resize((256, 240), Image.Resampling.BICUBIC)
                photo.save(folder / f"{number}.png")
                rows.writerow([f"photos/{name}/{number}.png", name])
    load_again()
    return f"ViT-B-16-quickgelu/openai@{published / 'ViT-B-16.pt'}"


def read_photos(model: str, tag: str) -> torch.Tensor:
    """Return the photos as open_clip prepares them for published weights."""
    known = open_clip.get_pretrained_cfg(model, tag)
    settings = merge_preprocess_dict(PreprocessCfg(size=224), known)
    prepare: Any = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    paths = sorted(Path("photos").glob("*/*.png"))
    return torch.stack([prepare(Image.open(path)) for path in paths])


def options_of(advice: Advice) -> pd.DataFrame:
    """Return the options by name; all of one method are measured."""
    return advice.options.set_index("option")


def test_checkpoint_of_coop_leads_from_vit_b16_to_eva02_b16(source: str) -> None:
    save_coop(Path("output"), load_backbone(source), NAMES)
    words = ["advise", "photos", "--module", "output", "--source", source]
    shown = output_of(*words, "--target", "eva02-b16", COMPATBENCH_CARDS="")
    assert shown.startswith("eva02-b16: ")
    assert f"{2 * IMAGES} test images" in shown
    assert "coop untouched" in shown


def test_peft_adapter_and_a_list_lead_from_vit_b16_to_eva02_b16(source: str) -> None:
    places = [("text", 0, "q", 2), ("image", 1, "v", 2)]
    save_peft(Path("adapter"), places, width={"text": 512, "image": 768})
    advice = cb.advise("list.csv", module="adapter", source=source, target="eva02-b16")
    options = options_of(advice)
    assert options.loc[["old model", "zero-shot", "copied"], "accuracy"].between(0, 100).all()


def test_probe_leads_from_vit_b16_to_siglip_2(source: str) -> None:
    """Features and answers are those of open_clip's own model, preprocessing and tokenizer."""
    old: Any = load_backbone(source).model
    features = old.encode_image(read_photos("ViT-B-16-quickgelu", "openai"))
    sides = torch.tensor([1.0, -1.0]).repeat_interleave(IMAGES)
    row = torch.linalg.lstsq(features, sides).solution  # separates the photos
    rows = torch.stack([row, -row])
    save_head(Path("probe.npz"), coef=rows, intercept=np.zeros(2), classes=np.array(NAMES))
    advice = cb.advise("photos", module="probe.npz", source=source, target="siglip2-b16")
    options = options_of(advice)
    assert options.loc["old model", "accuracy"] == 100
    assert "768" in str(options.loc["copied", "reason"])  # the new features are wider
    new = load_backbone("siglip2-b16")
    model: Any = new.model
    photos = model.encode_image(read_photos("ViT-B-16-SigLIP2", "webli"), normalize=True)
    prompts = load_task("photos").labels.fill()
    texts = model.encode_text(new.tokenizer([*prompts]), normalize=True)
    right = (photos @ texts.T).argmax(1) == torch.arange(2).repeat_interleave(IMAGES)
    assert options.loc["zero-shot", "accuracy"] == pytest.approx(100 * right.float().mean().item())


def test_without_a_module_three_methods_are_trained_on_vit_b16(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other processes would build the models with all their blocks.
    here = partial(Compute, executor="here")
    monkeypatch.setattr("compatbench.extras.advice.cross_fit.Compute", here)
    advice = cb.advise("list.csv", source=source, target="siglip2-b16")
    assert [*advice.frame["method"]] == [*CHEAP_METHODS]
