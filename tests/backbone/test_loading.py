"""Names of backbones, the search for their weights, and the key of their features."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loading_models import (
    CONFIGS,
    HALF,
    make,
    publish,
    put_in_hub_cache,
    same_weights,
    write_tokenizer,
)
from open_clip import pretrained
from safetensors.torch import save_file

from compatbench.backbone import load_backbone, needed_files
from compatbench.backbone.build import build_architecture, build_model
from compatbench.backbone.load import backbone_names, read_backbone, weights, weights_key
from compatbench.backbone.load import find_weights as finding
from compatbench.backbone.load.backbone_names import preprocessing
from compatbench.backbone.load.find_weights import find_weights
from compatbench.backbone.load.weights import hash_weights, locate_weights
from compatbench.backbone.needed_files import list_needed_files
from compatbench.data.cards import backbone_cards, suite_cards
from compatbench.engine.missing import find_missing
from compatbench.errors import BackboneError, CompatbenchError, MissingWeights
from compatbench.extras.doctor.backbone_report import inspect_backbone
from compatbench.files.hashes import hash_file, sha256_bytes
from compatbench.files.project_folders import tasks_folder

pytestmark = pytest.mark.usefixtures("no_weights_here")

FILE = "open_clip_model.safetensors"
TORCH_FILE = "open_clip_pytorch_model.bin"
HUB = f"models--us--small.plain/snapshots/{'0' * 40}"
CARD = """\
name: small
title: Small
config: Small
tag: plain
repository: us/small.plain
files: [Original.pt]
lineage: trained from scratch
licence: MIT
"""


def write_card(folder: Path, more: str = "") -> str:
    (folder / "small.yaml").write_text(CARD + more)
    return f"{folder}/small.yaml"


# Each architecture is built once, without memory for its weights.
inspect_card = functools.cache(inspect_backbone)


def save(path: Path, name: str = "Small", seed: int = 1) -> Any:
    model = make(name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
    return model


@pytest.mark.parametrize("name", backbone_cards.names())
def test_every_card_names_a_release_with_the_right_activation(name: str) -> None:
    card = backbone_cards.read(name)
    report = inspect_card(name) if card.provider == "open_clip" else None
    assert report is None or report.state != "wrong", report
    if report and card.weights is None:
        assert report.activation_right is True
    assert card.lineage or name == "mini-clip"
    if card.text_from is not None:
        first = inspect_card(card.text_from)
        assert report.token_width == first.token_width
        # Two releases project the text tower that they started from to another size.
        other_size = name in ("eva01-g14", "eva02-e14-plus")
        assert (report.embed_dim != first.embed_dim) == other_size


@settings(max_examples=10)
@given(st.text(max_size=20))
def test_any_text_is_a_backbone_name_or_a_compatbench_error(name: str) -> None:
    with contextlib.suppress(CompatbenchError):
        assert read_backbone(name).name == name


def test_release_without_a_card_is_described_by_its_name() -> None:
    card = read_backbone("EVA02-B-16/merged2b_s8b_b131k")
    assert card.name == "EVA02-B-16/merged2b_s8b_b131k"
    assert card.text_from == "vit-b16-openai"  # from the card of this release
    report = inspect_backbone("ViT-B-16/openai")
    assert (report.state, report.activation, report.activation_right) == ("wrong", "GELU", False)
    assert report.fix == "use the model 'ViT-B-16-quickgelu'"


PLACES = {
    "the card's name": "weights/small.safetensors",
    "the release's name": "weights/Small-plain.safetensors",
    "the repository": f"weights/us/small.plain/{FILE}",
    "the repository's last part": f"weights/small.plain/{FILE}",
    "a hub cache as weights folder": f"weights/{HUB}/{FILE}",
    "the authors' own name": "weights/Original.pt",
    "the hub's cache": f"hf/hub/{HUB}/{FILE}",
    "a torch file of the hub": f"hf/hub/{HUB}/{TORCH_FILE}",
}


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_found_in_the_usual_places(place: str, tmp_path: Path) -> None:
    # A card in a folder of cards is named like its file, not by its path.
    card = read_backbone(write_card(tmp_path)).model_copy(update={"name": "small"})
    path = tmp_path / PLACES[place]
    for folder in ("weights", "hf/hub"):
        put_in_hub_cache(tmp_path / folder, "us/small.plain", FILE)
    model = save(path)
    assert find_weights(card) == path
    if "name" not in place and path.suffix == ".safetensors":
        assert same_weights(load_backbone("Small/plain").model, model)
        assert inspect_backbone("Small/plain").path == path


def test_doctor_reports_a_model_without_its_tokenizer_as_missing(tmp_path: Path) -> None:
    """SigLIP 2's tokenizer is not part of open_clip, and may be missing beside its weights."""
    save(tmp_path / "weights/Small-siglip2-webli.safetensors", "Small-siglip2")
    name = "Small-siglip2/webli"
    report = inspect_backbone(name)
    assert (report.state, report.tokenizer) == ("missing", "")
    assert "the tokenizer of us/words is not on this machine" in report.message
    assert "hf download us/words" in report.fix
    [fetched] = weights.fetch_backbones([name])
    assert "the tokenizer of us/words" in fetched.problem
    suite = suite_cards.read("smoke").model_copy(update={"upgrades": (("mini-clip", name),)})
    assert "the tokenizer of us/words" in find_missing(suite, []).backbones[name]
    config = put_in_hub_cache(tmp_path / "hf/hub", "us/words", "tokenizer.json")
    write_tokenizer(config.parent, "clip")
    report = inspect_backbone(name)
    assert (report.state, report.tokenizer) == ("found", str(config)), report.message
    assert report.size.endswith("iB")
    assert load_backbone(name).tokenizer(["a dog"]).tolist()[0][:4] == [1, 4, 7, 3]
    assert find_missing(suite, []).backbones == {}


def test_needed_files_have_sizes_licences_and_commands_before_any_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights/Small-plain.safetensors"
    save(path)
    here, absent, words = list_needed_files(["Small/plain", "Small-siglip2/webli"])
    assert (here.path, here.size, here.exact) == (path, path.stat().st_size, True)
    assert (absent.path, absent.exact, absent.licence) == (None, False, "unknown")
    assert absent.size_in_words.startswith("about ")
    assert absent.fetch == f"hf download us/small.siglip2 {FILE}"
    assert (words.kind, words.path, words.size) == ("tokenizer", None, None)
    assert words.fetch.startswith("hf download us/words")
    sizes = {"us/small.siglip2": {FILE: 4321}, "us/words": {"tokenizer.json": 99}}
    monkeypatch.setattr(needed_files, "_ask_hub", lambda repository, revision: sizes[repository])
    _, absent, words = list_needed_files(["Small/plain", "Small-siglip2/webli"])
    assert (absent.size, absent.exact, words.size) == (4321, True, 99)


def test_weights_of_an_own_card_are_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "other.safetensors"
    save(path)
    card = f"name: other\ntitle: Other\nconfig: Small\nweights: {path.name}\nlicence: MIT\n"
    (tmp_path / "other.yaml").write_text(f"{card}sha256: {hash_file(path)}\n")
    monkeypatch.setenv("COMPATBENCH_CARDS", str(tmp_path))
    assert find_weights(read_backbone("other")) == path
    assert weights_key(read_backbone("other")) == hash_file(path)
    # A tokenizer that the card names is part of the key, too.
    named = tmp_path / "other.yaml"
    without_tokenizer = named.read_text()
    named.write_text(f"{without_tokenizer}tokenizer: merges.txt.gz\n")
    keys = {hash_file(path)}
    for text in (b"a b", b"c d e"):
        (tmp_path / "merges.txt.gz").write_bytes(text)
        keys.add(weights_key(read_backbone("other")))
    assert len(keys) == 3
    named.write_text(without_tokenizer)
    path.rename(tmp_path.with_suffix(".safetensors"))
    with pytest.raises(MissingWeights, match=r"other\.safetensors are missing"):
        find_weights(read_backbone("other"))
    path.symlink_to(tmp_path.with_suffix(".safetensors"))
    with pytest.raises(BackboneError, match="neither in the card's folder nor"):
        find_weights(read_backbone("other"))


def test_error_about_a_backbone_to_be_built_says_how() -> None:
    suite = suite_cards.read("mini-upgrades")
    with pytest.raises(MissingWeights, match="'mini-eva-clip-5' does not ship") as caught:
        read_backbone("mini-eva-clip-5", suite)
    assert caught.value.fix == (
        "make it with 'python -m compatbench.tasks.mini.build upgrades' and name the folder that "
        "it fills in COMPATBENCH_CARDS"
    )
    with pytest.raises(BackboneError, match="no backbone named 'mini-eva-clip-5'; did you mean"):
        read_backbone("mini-eva-clip-5")


@pytest.mark.parametrize("by", ["card", "address"])
def test_cache_of_clip_is_used_and_its_hash_is_checked(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish(monkeypatch, sha256_bytes(b"12345"), by)
    path = tmp_path / "home" / ".cache" / "clip" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"12345")
    card = read_backbone("Small-quickgelu/openai")
    assert locate_weights(card) == path
    path.write_bytes(b"other")
    with pytest.raises(CompatbenchError, match="not the one that is published"):
        locate_weights(card)


OPENAI = [model for model, tag in open_clip.list_pretrained() if tag == "openai"]


def test_openais_archives_are_recognised_without_their_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = {f"{model.removesuffix('-quickgelu')}-quickgelu" for model in OPENAI}
    assert len(models) == 9
    for model in models:
        facts = open_clip.get_pretrained_cfg(model, "openai")
        card = backbone_names.cards_by_release(tasks_folder())[model, "openai"]
        (file,) = card.files
        address = facts["url"]
        if address:  # open_clip 4 has none
            assert address.endswith(f"/{card.hashes[file]}/{file}")
        for other in (model, model.removesuffix("-quickgelu")):
            tags = pretrained._PRETRAINED[other] | {"openai": facts | {"url": ""}}
            monkeypatch.setitem(pretrained._PRETRAINED, other, tags)
        assert str(backbone_names.recognise(card.hashes[file])) == f"{model}/openai"
    assert backbone_names.recognise("0" * 64) is None


def test_error_about_missing_weights_lists_places_and_a_download_command(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights) as caught:
        load_backbone("Small/plain")
    text = str(caught.value)
    for part in (
        "open_clip_model.safetensors of us/small.plain is not on this machine",
        "nothing may be fetched (HF_HUB_OFFLINE)",
        f"COMPATBENCH_WEIGHTS={tmp_path}/weights",
        str(tmp_path / "hf" / "hub"),
        "hf download us/small.plain open_clip_model.safetensors",
    ):
        assert part in text
    report = inspect_backbone("Small/plain")
    assert (report.state, report.token_width, report.embed_dim) == ("missing", 16, 8)
    assert report.parameters == sum(p.numel() for p in make("Small").parameters())


@pytest.mark.parametrize("name", ["Small/plain", "hf:us/clip"])
def test_unreachable_hub_means_missing_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(finding, "getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    said = r"cannot be fetched: .*refused; where there is a"
    with pytest.raises(MissingWeights, match=said):
        weights_key(read_backbone(name))


def test_missing_weights_are_downloaded_into_the_hub_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(repo_id: str, filename: str, revision: str | None, cache_dir: Path) -> str:
        asked.append(revision)
        path = put_in_hub_cache(cache_dir, repo_id, filename)
        save(path)
        return str(path)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(finding, "check_network", lambda: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert same_weights(load_backbone("Small/plain").model, make("Small"))
    path = find_weights(read_backbone("Small/plain"))
    assert path.is_relative_to(tmp_path / "hf" / "hub")
    # A card names its commit, which is found again without the hub's reference to the newest.
    shutil.rmtree(tmp_path / "hf")
    pinned = read_backbone(write_card(tmp_path, f"revision: '{'0' * 40}'\n"))
    assert find_weights(pinned, download=True) == path
    (tmp_path / "hf" / "hub" / HUB).parents[1].joinpath("refs", "main").unlink()
    assert find_weights(pinned) == path
    assert asked == [None, "0" * 40]


def test_weights_are_located_without_a_download_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(finding, "_download", lambda *_: pytest.fail("fetched"))
    card = read_backbone("Small/plain")
    with pytest.raises(MissingWeights, match="is not on this machine"):
        locate_weights(card, download=False)
    save(tmp_path / "weights" / "Small-plain.safetensors")
    path = locate_weights(card, download=False)
    assert path == tmp_path / "weights" / "Small-plain.safetensors"


def test_preprocessing_comes_from_the_release_or_from_all_releases(tmp_path: Path) -> None:
    save(tmp_path / "weights" / "Small-half.safetensors")
    settings = load_backbone("Small/half").preprocess_settings
    assert (settings["interpolation"], settings["size"]) == ("bilinear", (32, 32))
    assert inspect_backbone("Small/half").preprocessing == settings
    real = preprocessing(read_backbone("ViT-L-14/laion2b_s32b_b82k"))
    assert real["mean"] == HALF
    for name, equal in (("Small-wide", True), ("Small/half", True), ("Small/plain", False)):
        save(tmp_path / "w.safetensors", name.split("/")[0])
        named = load_backbone(f"{name}@{tmp_path}/w.safetensors")
        assert (named.preprocess_settings["mean"] == HALF) == equal


def test_weights_key_depends_only_on_content_and_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    copy = tmp_path / "copy.safetensors"
    save(path)
    keys = {tag: weights_key(read_backbone(f"Small/{tag}@{path}")) for tag in ("plain", "half")}
    assert keys["plain"] != keys["half"]
    copy.write_bytes(path.read_bytes())
    save(path, seed=2)
    assert weights_key(read_backbone(f"Small/plain@{path}")) != keys["plain"]
    assert load_backbone(f"Small/plain@{copy}").weights_key == keys["plain"]


def test_hash_is_recomputed_only_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"one")
    first = hash_weights(path)
    assert first == hash_file(path)
    weights._hash.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(weights, "hash_file", None)
        assert hash_weights(path) == first
    path.write_bytes(b"two!")
    assert hash_weights(path) == hash_file(path) != first


def test_weights_with_another_hash_are_refused(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("a" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"x")
    (tmp_path / "w.safetensors").symlink_to(blob)
    with pytest.raises(CompatbenchError, match="not the one of the hub; delete"):
        hash_weights(tmp_path / "w.safetensors")
    for more, place in (
        (f"sha256: {'ab' * 32}\n", "Original.pt"),
        (f"hashes: {{{FILE}: {'ab' * 32}}}\n", f"us/small.plain/{FILE}"),
    ):
        name = write_card(tmp_path, more)
        save(tmp_path / "weights" / place)
        with pytest.raises(CompatbenchError, match=r"its SHA-256 is not the one .* on the card"):
            load_backbone(name)
        assert inspect_backbone(name).state == "wrong"


def test_model_folder_contains_its_configuration(tmp_path: Path) -> None:
    name = f"local-dir:{tmp_path}"
    local = tmp_path / "open_clip_config.json"
    model = save(tmp_path / FILE)
    config = {"model_cfg": CONFIGS["Small"], "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    local.write_text(json.dumps(config))
    backbone = load_backbone(name)
    assert same_weights(backbone.model, model)
    assert list(backbone.preprocess_settings["mean"]) == [0.1, 0.2, 0.3]
    report = inspect_backbone(name)
    assert (report.state, report.embed_dim) == ("found", 8)
    local.write_text(local.read_text().replace("0.3", "0.4"))
    assert weights_key(read_backbone(name)) != backbone.weights_key


def test_loading_weights_draws_no_random_numbers() -> None:
    """Drawing takes longer than reading, and would change the caller's random numbers."""
    for name in ("mini-clip", "mini-eva-clip"):
        state = torch.get_rng_state()
        model = build_model(backbone_cards.read(name))
        assert torch.equal(torch.get_rng_state(), state)
        drawn = build_architecture(backbone_cards.read(name))
        assert not torch.equal(torch.get_rng_state(), state)
        drawn.load_state_dict(model.state_dict(), strict=True)
        # Buffers that are not in the file are computed.
        computed = dict(model.named_buffers())
        expected = dict(drawn.named_buffers())
        assert computed.keys() == expected.keys()
        for buffer, values in expected.items():
            assert torch.equal(computed[buffer], values), buffer
