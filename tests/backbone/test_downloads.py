"""Weights are downloaded from a stand-in of the Hugging Face Hub; no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import invoke, output_of
from hub_stand_in import Hub, go_online
from loading_models import make
from safetensors.torch import save

import compatbench as cb
from compatbench.backbone import load_backbone
from compatbench.files.hashes import sha256_bytes

pytestmark = pytest.mark.usefixtures("no_weights_here")
NEW = "Small/plain"  # of a made-up release
REPOSITORY = "us/small.plain"
FILE = "open_clip_model.safetensors"
CARD = """\
name: new
title: New
config: Small
tag: plain
lineage: unknown
licence: MIT
"""


@pytest.fixture(scope="module")
def weights() -> bytes:
    return save(make("Small").state_dict())


@pytest.fixture
def hub(
    no_weights_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: bytes
) -> Iterator[Hub]:
    """Return a Hub that has the weights of a small model."""
    monkeypatch.chdir(tmp_path)
    hub = Hub()
    hub.repositories[REPOSITORY] = {FILE: weights}
    go_online(hub, monkeypatch, tmp_path / "hub")
    yield hub
    hub.http.shutdown()
    hub.http.server_close()


def problem_of(name: str) -> str:
    """Return the line of a model that cannot be downloaded."""
    [fetched] = cb.fetch_backbones([name])
    assert fetched.file is None
    assert "\n" not in fetched.problem
    return fetched.problem


def test_weights_are_downloaded_once_and_checked(hub: Hub, weights: bytes) -> None:
    assert f"found {NEW}" in output_of("store data weights", NEW)
    requests = len(hub.requests)
    [again] = cb.fetch_backbones([NEW])
    assert again.file is not None
    assert again.file.read_bytes() == weights
    assert load_backbone(NEW).embed_dim == 8
    assert len(hub.requests) == requests
    assert hub.ranges == [""]


def test_download_continues_where_the_connection_broke(
    hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.breaks = [500_000, 200_000]
    [fetched] = cb.fetch_backbones([NEW])
    assert fetched.file is not None
    assert fetched.file.read_bytes() == weights
    assert hub.ranges == ["", "bytes=500000-", "bytes=700000-"]


def test_each_failed_download_is_one_line_with_the_reason(hub: Hub) -> None:
    files = hub.repositories.pop(REPOSITORY)
    said = "cannot be fetched: there is no such repository, or your token may not see it; "
    assert said in problem_of(NEW)
    hub.repositories[REPOSITORY] = {"README.md": b""}
    said = "the repository has no open_clip_model.safetensors or open_clip_pytorch_model.bin; "
    assert said in problem_of(NEW)
    hub.repositories[REPOSITORY] = files
    hub.gated.add(REPOSITORY)
    said = f"authors give access on request: ask for it at {hub.url}/{REPOSITORY}, then log in"
    assert said in problem_of(NEW)
    hub.gated.clear()
    for status in (401, 403):
        hub.status = status
        assert f"the Hub refuses your token ({status}); log in with 'hf auth" in problem_of(NEW)
    hub.status = 503
    assert "the Hub does not answer" in problem_of(NEW)
    hub.status = None
    hub.breaks = 20 * [0]
    assert "peer closed connection" in problem_of(NEW)
    result = invoke("store data weights", NEW)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"missing {NEW}")
    hub.breaks.clear()
    assert "found" in output_of("store data weights", NEW)


def test_download_with_another_hash_is_refused_until_it_is_deleted(
    hub: Hub, weights: bytes
) -> None:
    hub.sent[FILE] = weights[:-8] + b"damaged!"
    problem = problem_of(NEW)
    assert "their SHA-256 is not the one of the hub; delete " in problem
    hub.sent.clear()
    Path(problem.split("; delete ")[1].removesuffix(" and fetch it again")).unlink()
    [fetched] = cb.fetch_backbones([NEW])
    assert fetched.file is not None
    Path("new.yaml").write_text(f"{CARD}hashes: {{{FILE}: {sha256_bytes(b'other')}}}\n")
    fix = f"or on the card; delete {fetched.file.resolve()} and fetch it again"
    assert problem_of("new.yaml").endswith(fix)
