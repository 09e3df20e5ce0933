"""Modules and results to a stand-in of the Hugging Face Hub, and back; no network."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from command_line import invoke, output_of
from hub_stand_in import TOKEN, Hub

import compatbench as cb
from compatbench.data.task import task_labels
from compatbench.method import Module
from compatbench.results.result_files import read_method

REPOSITORY = Path(__file__).parents[3]
ROWS = read_method(REPOSITORY / "results/mini", "coop").table.query(
    "transfer == 'copied' and task == 'mini-food' and seed == 1"
)


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
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
    files = f"{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    monkeypatch.setattr("compatbench.backbone.load.find_weights.getproxies", dict)
    for name, value in {
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    return running


def a_module(**about: object) -> Module:
    """CoOp's vectors, as if they were those of the committed results."""
    facts = {"method": "coop", "config": {}, "task": "mini-food", "source": "mini-clip"}
    facts |= {"shots": 16, "seed": 1, "key": ROWS["key"].iloc[0]}
    return Module({"context": torch.arange(12.0).reshape(3, 4)}, about=facts | about)


def test_a_module_is_shown_then_sent_and_comes_back_as_it_was(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "results/mini").mkdir(parents=True)
    for path in (REPOSITORY / "results/mini").glob("coop.*"):
        shutil.copy(path, tmp_path / "results/mini")
    module = a_module()
    module.save("mine.safetensors")
    command = ("module push", "mine.safetensors", "hf://me/coop-food", "--licence", "mit")
    refused = invoke(*command)  # nobody answers
    assert refused.exit_code == 1
    assert "to hf://me/coop-food, a model (public" in refused.stdout
    assert "module.safetensors (" in refused.stdout
    assert hub.requests == []
    shown = output_of(*command, "--yes")
    assert f"sent: {hub.url}/me/coop-food/commit/{hub.sha}" in shown
    sent = hub.repositories["models/me/coop-food"]
    assert sent.keys() == {"README.md", "module.safetensors"}
    assert sent["module.safetensors"] == Path("mine.safetensors").read_bytes()
    readme = sent["README.md"].decode()
    assert readme in shown
    header, _, text = readme.removeprefix("---\n").partition("---\n")
    facts = yaml.safe_load(header)
    assert facts == {"library_name": "compatbench", "license": "mit", "tags": facts["tags"]}
    for part in ("16 shots, seed 1", "mini-clip", "licence of the backbone", module.fingerprint):
        assert part in text
    for row in ROWS.itertuples():
        assert f"{row.accuracy:.1f} |" in text
    assert text.count("| `mini-food` ") == len(ROWS)
    assert 'cb.evaluate("hf://me/coop-food"' in text
    for back in (cb.pull_module("hf://me/coop-food"), cb.pull_module("hf:/me/coop-food/")):
        assert (back.fingerprint, back.about) == (module.fingerprint, module.about)
    assert "wrote coop-food.safetensors" in output_of("module pull", "hf://me/coop-food")
    assert Path("coop-food.safetensors").read_bytes() == sent["module.safetensors"]
    # Where a module's file is taken, its address is; also from the cache, without the hub.
    files = cb.export_module("coop", "hf://me/coop-food", "back").files
    hub.status = 503
    assert [path.is_file() for path in files]


def test_the_card_names_the_base_model_on_the_hub_and_where_a_module_is_from() -> None:
    about = {"source": "vit-b16-openai", "key": None, "shots": None, "task": "dtd"}
    about["imported"] = {"format": "coop", "file": "model.pth.tar-50"}
    about["labels"] = task_labels("dtd").described
    upload = cb.push_module(a_module(**about), "hf://me/it", out="nowhere")
    readme = upload.files["README.md"].decode()
    facts = yaml.safe_load(readme.split("---")[1])
    assert facts["base_model"] == "timm/vit_base_patch16_clip_224.openai"
    assert facts["base_model_relation"] == "adapter"
    assert "license" not in facts  # which is for the owner to say
    parts = ["| MIT ", "coop, model.pth.tar-50", "DTD", "47 classes", "| banded,"]
    for part in (*parts, "Not known here.", "arxiv.org/abs/2109.01134"):
        assert part in readme
    assert "not sent before send()" in repr(upload)
    own = cb.push_module(a_module(method="mine<b>"), "hf://me/it", out="nowhere")
    assert "<b>" not in own.files["README.md"].decode().split("## Use")[0].split("---")[2]


def test_results_are_sent_and_come_back_byte_for_byte(hub: Hub, tmp_path: Path) -> None:
    kept = {f"results/smoke/coop{end}" for end in (".csv", ".cost.csv", ".json")}
    kept.add("results/smoke/tuning/coop.json")
    (tmp_path / "results/smoke/tuning").mkdir(parents=True)
    for name in kept:
        shutil.copy(REPOSITORY / name.replace("smoke", "mini"), tmp_path / name)
    (tmp_path / "results/smoke/notes.txt").write_text("mine")
    place = "hf://datasets/me/trial"
    assert "coop.cost.csv" in output_of("module push", "results/smoke", place, "--private", "--yes")
    sent = hub.repositories["datasets/me/trial"]
    assert sent.keys() == {"README.md", *kept}
    assert hub.private == {"datasets/me/trial": True}
    assert "mini-eva-clip" in sent["README.md"].decode()
    sent |= {"evil.csv": b"x", "results/smoke/run.sh": b"x"}
    assert "wrote elsewhere/results/smoke" in output_of("module pull", place, "--out", "elsewhere")
    there = tmp_path / "elsewhere"
    found = {path for path in there.rglob("*") if path.is_file()}
    assert {str(path.relative_to(there)) for path in found} == kept
    assert all((tmp_path / n).read_bytes() == (there / n).read_bytes() for n in kept)
    with pytest.raises(cb.CompatbenchError, match="elsewhere/results/smoke exists"):
        cb.pull_results(place, "elsewhere")
    sent["results/smoke/coop.csv"] = sent["results/smoke/coop.csv"][:-40]
    shutil.rmtree("hub")
    with pytest.raises(cb.CompatbenchError, match=r"trial: results/smoke/coop.csv:\d+: ") as error:
        cb.pull_results(place, "third")
    assert "\n" not in str(error.value)
    assert not [path for path in (tmp_path / "third").rglob("*") if path.name != "results"]


def test_what_cannot_be_had_or_sent_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(what: str, *words: str) -> None:
        with pytest.raises(cb.CompatbenchError, match=what) as error:
            invoke(*words)
        assert "\n" not in str(error.value)

    a_module().save("mine.safetensors")
    Path("damaged.safetensors").write_bytes(Path("mine.safetensors").read_bytes()[:-8])
    push = ("module push", "mine.safetensors", "hf://me/it")
    hub.repositories |= {"models/me/empty": {"README.md": b""}, "models/me/public": {}}
    hub.repositories["models/me/bad"] = {"module.safetensors": b"no module"}
    hub.repositories["datasets/me/empty"] = {"README.md": b""}
    hub.private |= dict.fromkeys(hub.repositories, False)
    for what, *words in (
        ("no such repository, or your token may not see it", "module pull", "hf://me/nothing"),
        ("the repository holds no module.safetensors", "module pull", "hf://me/empty"),
        ("hf://me/bad: cannot read module .*module.safetensors", "module pull", "hf://me/bad"),
        ("holds no results: no results/SUITE", "module pull", "hf://datasets/me/empty"),
        ("not a place of a module or results on the hub; write hf://OWNER", "module pull", "me/it"),
        ("of a module on the hub; write hf://OWNER/NAME", *push[:2], "hf://datasets/a/b"),
        ("cannot read module damaged", "module push", "damaged.safetensors", "hf://me/it"),
        ("gone holds no results|cannot read module gone", "module push", "gone", "hf://me/it"),
        ("hf://me/public is public", *push[:2], "hf://me/public", "--private", "--yes"),
        ("hf://me/nothing cannot be read: there is no such", "advise", "hf://me/nothing"),
    ):
        told(what, *words)
    before = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    told("without your token of the hub: 'hf auth login' saves it", *push, "--yes")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told("nothing can be sent to hf://me/it: HF_HUB_OFFLINE is set", *push, "--yes")
    told("not on this machine, and nothing may be fetched", "module pull", "hf://me/other")
    assert len(hub.requests) == before
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.status = 403
    told(r"hf://me/it cannot be written to: the hub refuses your token \(403\)", *push, "--yes")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
    told("the hub cannot be reached: .*refused", *push, "--yes")
    told("the hub cannot be reached: .*refused", "module pull", "hf://me/other")
