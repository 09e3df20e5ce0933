"""Files made to harm: what is read runs no code, takes no memory, and leaves no folder."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from command_line import output_of
from safetensors.torch import save_file

from compatbench.backbone.load.checkpoint import read_tensors
from compatbench.data.cache_files import list_entries, read_entry
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.method import load_module
from compatbench.method.registry import MethodRegistry


@pytest.mark.parametrize("header", ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000])
def test_a_header_that_nests_without_end_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "features" / "m.safetensors"
    path.parent.mkdir()
    save_file({"features": torch.zeros(2)}, path, {"compatbench": header})
    with pytest.raises(CompatbenchError):
        load_module(path)
    assert read_entry(path) is None
    [entry] = list_entries(tmp_path)
    assert entry.about == {}


def test_words_about_a_module_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    nested = f'{{"a": {"[" * 900}{"]" * 900}}}'
    words = f'{{"about": {nested}, "trained": []}}'
    header = f'{{"schema": "compatbench-module-2", "sha256": "x", "about": {words}}}'
    assert json.loads(header)
    save_file({"x": torch.zeros(1)}, tmp_path / "m", {"compatbench": header})
    with pytest.raises(CompatbenchError):
        load_module(tmp_path / "m")


class Evil:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def write_torchscript(path: Path, tree: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("s/constants.pkl", b"")
        archive.writestr("s/data.pkl", tree)


@pytest.mark.parametrize("kind", ["zip", "legacy", "torchscript"])
def test_a_checkpoint_runs_nothing_unless_it_is_trusted(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMPATBENCH_TRUST_PICKLE", raising=False)
    target, path = tmp_path / "touched", tmp_path / "w.pt"
    refusal = "more than tensors"
    if kind == "torchscript":
        write_torchscript(path, pickle.dumps(Evil(target)))
    else:
        state = {"state_dict": {"w": torch.zeros(2)}, "evil": Evil(target)}
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
        refusal = r"would run code that is in it.*--trust-pickle"
    with pytest.raises(CompatbenchError, match=refusal):
        read_tensors(path)
    assert not target.exists()
    if kind != "torchscript":
        monkeypatch.setenv("COMPATBENCH_TRUST_PICKLE", "1")
        with pytest.warns(CompatbenchWarning, match="read with code that is in it"):
            assert read_tensors(path).keys() == {"w"}
        assert target.exists()


def test_listing_and_keys_run_no_file_that_was_not_asked_for(tmp_path: Path) -> None:
    """A method file is code; one that nobody names is never loaded."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    MethodRegistry().select("")
    with pytest.raises(CompatbenchError):
        MethodRegistry().select("evil")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CompatbenchError, match="defines no method"):
        MethodRegistry().select(str(tmp_path / "evil.py"))
    assert (tmp_path / "ran").exists()


def test_the_command_line_says_that_a_plug_in_is_code() -> None:
    for command in ("run", "plan", "check", "maintain audit", "evaluate"):
        output = output_of(command, "--help")
        assert "as code" in " ".join(output.replace("│", " ").split()), command
