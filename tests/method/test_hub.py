"""Modules are uploaded to a stand-in of the Hugging Face Hub and loaded again; no network."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from command_line import invoke
from hub_stand_in import Hub, go_online

import compatbench as cb
from compatbench.data.task import task_labels
from compatbench.method import Module
from compatbench.method.hub import write_model_card


@pytest.fixture(scope="module")
def running() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.http.shutdown()
    hub.http.server_close()


@pytest.fixture
def hub(running: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    running.__dict__.update(repositories={}, private={}, requests=[], status=None)
    monkeypatch.chdir(tmp_path)
    go_online(running, monkeypatch, tmp_path / "hub")
    return running


def make_module(**about: object) -> Module:
    facts = {"method": "coop", "config": {}, "task": "mini-food", "source": "mini-clip"}
    facts |= {"shots": 16, "seed": 1, "labels": task_labels("mini-food").described}
    return Module({"context": torch.arange(12.0).reshape(3, 4)}, about=facts | about)


def test_uploaded_module_loads_unchanged_and_stays_in_the_cache(hub: Hub) -> None:
    module = make_module()
    address = module.push_to_hub("me/coop-food", licence="mit")
    assert address == f"{hub.url}/me/coop-food/commit/{hub.sha}"
    assert hub.private == {"me/coop-food": False}
    files = hub.repositories["me/coop-food"]
    assert files.keys() == {"README.md", "module.safetensors"}
    module.save("local.safetensors")
    assert files["module.safetensors"] == Path("local.safetensors").read_bytes()
    for place in ("hf://me/coop-food", "hf:/me/coop-food/", Path("local.safetensors")):
        loaded = cb.load(place)
        assert (loaded.fingerprint, loaded.about) == (module.fingerprint, module.about)
    hub.status = 503
    assert cb.load("hf://me/coop-food").fingerprint == module.fingerprint


def test_hub_address_works_where_a_file_does(hub: Hub) -> None:
    make_module().push_to_hub("hf://me/coop-food", private=True)
    assert hub.private == {"me/coop-food": True}
    exported = cb.export_module("coop", "hf://me/coop-food", "exported")
    for path in exported.files:
        assert path.is_file()
    with pytest.raises(cb.CompatbenchError, match="no backbone named 'mini-klip'"):
        invoke("evaluate", "hf://me/coop-food", "--target", "mini-klip")
    with pytest.raises(cb.CompatbenchError, match="hf://me/nothing: there is no such repository"):
        invoke("evaluate", "hf://me/nothing", "--target", "mini-eva-clip")


def test_model_card_states_what_the_file_says() -> None:
    about = make_module(source="vit-b16-openai", task="dtd", imported={"format": "`coop`"}).about
    about["labels"] = task_labels("dtd").described
    card = write_model_card("me/it", about, "mit")
    _, header, text = card.split("---\n")
    facts = yaml.safe_load(header)
    assert facts["license"] == "mit"
    assert facts["base_model"] == "timm/vit_base_patch16_clip_224.openai"
    assert facts["base_model_relation"] == "adapter"
    for part in ("* method: `coop`", "* licence of the backbone: `MIT`", "banded", "'coop'"):
        assert part in text
    assert 'cb.load("hf://me/it")' in text
    unknown = yaml.safe_load(write_model_card("me/it", {"source": "gone"}, None).split("---\n")[1])
    assert "base_model" not in unknown
    assert "license" not in unknown  # the owner chooses it


def test_download_and_upload_errors_are_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(expected: str, action: Callable[[], object]) -> None:
        with pytest.raises(cb.CompatbenchError, match=expected) as error:
            action()
        assert "\n" not in str(error.value)

    module = make_module()
    hub.repositories |= {"me/empty": {"README.md": b""}, "me/public": {}}
    hub.repositories["me/bad"] = {"module.safetensors": b"no module"}
    hub.private |= dict.fromkeys(hub.repositories, False)
    fails("hf://me/nothing: there is no such repository", lambda: cb.load("hf://me/nothing"))
    fails("hf://me/empty: the repository has no module", lambda: cb.load("hf://me/empty"))
    fails("cannot read module .*me--bad", lambda: cb.load("hf://me/bad"))
    fails("'hf://a/b/c' is not a repository", lambda: cb.load("hf://a/b/c"))
    fails("'alone' is not a repository", lambda: module.push_to_hub("alone"))
    fails("exists and is public", lambda: module.push_to_hub("me/public", private=True))
    requests = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fails("HF_HUB_OFFLINE is set", lambda: module.push_to_hub("me/it"))
    fails("not in the cache of this machine", lambda: cb.load("hf://me/other"))
    assert len(hub.requests) == requests
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.status = 403
    fails(r"refuses your token \(403\)", lambda: module.push_to_hub("me/it"))
    hub.status = 503
    fails("hf://me/other: the Hub does not answer", lambda: cb.load("hf://me/other"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
    fails("cannot write to hf://me/it: .*refused", lambda: module.push_to_hub("me/it"))
