"""Files made to harm: what is read runs no code, takes no memory, and leaves no folder."""

from __future__ import annotations

import io
import json
import pickle
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compatbench.backbone.load.checkpoint import read_tensors
from compatbench.backbone.load.torchscript import read_torchscript
from compatbench.data.cache_files import list_entries, read_entry
from compatbench.data.cards import BackboneCard, SuiteCard
from compatbench.data.cards.task import WebdatasetSource
from compatbench.data.cards.yaml_file import read_card
from compatbench.data.labels import Classes
from compatbench.data.sources.webdataset import WebdatasetShards
from compatbench.errors import CompatbenchError
from compatbench.method.module import load_module
from compatbench.method.registry import MethodRegistry
from compatbench.results.rows import Row

SUITE = "name: s\ntitle: S\nupgrades: [[a, b]]\ntasks: [t]\nshots: [1]\nseeds: [1]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "card.yaml"
    path.write_text(text)
    return path


def laughs(levels: int, field: str) -> str:
    """Each level holds nine of the one before."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join([*lines, f"{field}: *a{levels - 1}"]) + "\n"


@pytest.mark.parametrize("field", ["tasks", "note", "methods", "variants", "extends"])
def test_a_billion_laughs_are_refused_before_they_are_counted(tmp_path: Path, field: str) -> None:
    path = write(tmp_path, laughs(12, field) + re.sub(f"{field}: .*\n", "", SUITE))
    with pytest.raises(CompatbenchError, match="its aliases stand for more than 1,000,000 values"):
        read_card(path, SuiteCard)


def test_honest_aliases_are_read(tmp_path: Path) -> None:
    text = SUITE.replace("seeds: [1]", "seeds: &s [1, 2]\nmethods: {coop: &c {lr: 1}, kgcoop: *c}")
    card = read_card(write(tmp_path, text), SuiteCard)
    assert card.methods["coop"] == card.methods["kgcoop"] == {"lr": 1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [1]", "seeds: &s [*s]", "its aliases stand for more than"),
        ("seeds: [1]", "methods: &m {coop: *m}\nseeds: [1]", "its aliases stand for more than"),
        ("seeds: [1]", "seeds: [1]\nseeds: [2]", "card.yaml:7: .*'seeds' is given twice; drop one"),
        ("seeds: [1]", "seeds: [1]\nmethods: {coop: {}, coop: {}}", "'coop' is given twice"),
        ("seeds: [1]", f"seeds: [0x{'f' * 5000}]", "a number is too large"),
        ("seeds: [1]", f"seeds: [{'9' * 5000}]", "not valid YAML"),
        ("seeds: [1]", "seeds: !!set {1, 2}", "a card holds no set"),
        ("title: S", "title: !!binary aGVsbG8=", "a card holds no bytes"),
        (
            "seeds: [1]",
            "seeds: [1]\ntraining: {crop_scale: [.nan, 1]}",
            "too large, or not finite",
        ),
        (
            "seeds: [1]",
            "seeds: [1]\ntraining: {crop_scale: [-.inf, 1]}",
            "too large, or not finite",
        ),
        ("seeds: [1]", 'seeds: [1]\nmethods: {coop: {a: "\\ud800"}}', "not valid YAML"),
        ("title: S", "title: !!python/name:os.system", "not valid YAML"),
        ("title: S", "title: !!python/object/apply:os.system [x]", "not valid YAML"),
    ],
)
def test_what_yaml_allows_and_a_card_does_not(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(CompatbenchError, match=message) as error:
        read_card(write(tmp_path, SUITE.replace(old, new)), SuiteCard)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("header", ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000])
def test_a_header_that_nests_without_end_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "features" / "m.safetensors"
    path.parent.mkdir()
    save_file({"features": torch.zeros(2)}, path, {"compatbench": header})
    with pytest.raises(CompatbenchError) as error:
        load_module(path)
    assert len(str(error.value).splitlines()) == 1
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


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    target = tmp_path / "touched"
    state = {"w": torch.zeros(2), "evil": Evil(target)}
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CompatbenchError, match="reading it would run code"):
        read_tensors(tmp_path / "w.pt")
    assert not target.exists()


def test_a_torchscript_tree_makes_nothing_but_tensors(tmp_path: Path) -> None:
    target = tmp_path / "touched"
    with zipfile.ZipFile(tmp_path / "s.pt", "w") as archive:
        archive.writestr("s/constants.pkl", b"")
        archive.writestr("s/data.pkl", pickle.dumps(Evil(target)))
    with pytest.raises(CompatbenchError, match="holds more than tensors"):
        read_torchscript(tmp_path / "s.pt")
    assert not target.exists()


def test_an_archive_that_would_unpack_without_end_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("s/constants.pkl", b"")
        archive.writestr("s/data.pkl", bytes(50_000_000))
    assert (tmp_path / "s.pt").stat().st_size < 100_000
    with pytest.raises(CompatbenchError, match=r"s/data\.pkl is compressed"):
        read_torchscript(tmp_path / "s.pt")


@pytest.mark.parametrize("number", ["9" * 5000, "9999999999", "-1", "1e3", ""])
def test_a_number_of_shards_that_is_none(tmp_path: Path, number: str) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "nshards.txt").write_text(number)
    card = WebdatasetSource.model_validate({"kind": "webdataset", "folder": "pets"})
    with pytest.raises(CompatbenchError, match="it holds the number of shards"):
        WebdatasetShards(tmp_path, card, Classes("pets", ("cat",), ("cat",), ("cat",)))


def test_a_shard_writes_nowhere(tmp_path: Path) -> None:
    """Members with paths out of the folder, absolute ones, links and devices."""
    folder = tmp_path / "pets" / "test"
    folder.mkdir(parents=True)
    (folder / "nshards.txt").write_text("1")
    card = WebdatasetSource.model_validate({"kind": "webdataset", "folder": "pets"})
    before = sorted(tmp_path.rglob("*"))
    for name, kind in [
        ("../../escape.png", tarfile.REGTYPE),
        ("/tmp/escape.png", tarfile.REGTYPE),
        ("a.png", tarfile.LNKTYPE),
        ("a.png", tarfile.SYMTYPE),
        ("a.cls", tarfile.CHRTYPE),
        ("a.cls", tarfile.FIFOTYPE),
    ]:
        with tarfile.open(folder / "0.tar", "w") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info, io.BytesIO(b""))
        with pytest.raises(CompatbenchError):
            WebdatasetShards(tmp_path / "pets", card, Classes("pets", ("c",), ("c",), ("c",)))
    assert sorted(tmp_path.rglob("*")) == sorted([*before, folder / "0.tar"])


OUTSIDE = ["../x", "/etc/x", "a/../../x", "a\\..\\x", "..", ".hidden", "a\0b", "a\nb", ""]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_becomes_a_path(name: str) -> None:
    row = dict(method="m", task="t", test_set="t", source="a", backbone="b", shots=1, seed=1)
    row |= dict(status="failed", key="0" * 64, data="0" * 64)
    Row.model_validate(row)
    for field in ("method", "task", "test_set"):
        with pytest.raises(ValueError, match=field):
            Row.model_validate(row | {field: name})
    for field in ("key", "data"):
        with pytest.raises(ValueError, match=field):
            Row.model_validate(row | {field: name})
    card = dict(name="b", title="B", config="c", weights="w", sha256="0" * 64, licence="MIT")
    BackboneCard.model_validate(card)
    for field in ("name", "weights"):
        with pytest.raises(ValueError, match=field):
            BackboneCard.model_validate(card | {field: name})


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
    from typer.testing import CliRunner

    from compatbench.cli.app import app

    for command in ("run", "plan", "check", "audit", "evaluate"):
        output = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300"}).output
        assert "run as code" in output, command
