"""Malicious files run no code and take no more memory than they should."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from command_line import output_of
from malicious_pickle import TouchesFile
from PIL import Image
from safetensors.torch import save_file
from torch._utils import _rebuild_tensor_v2

from compatbench.backbone.build import MAX_MERGES, build_tokenizer
from compatbench.backbone.hf import build_hf_model
from compatbench.backbone.load import read_backbone
from compatbench.backbone.load.checkpoint import read_tensors
from compatbench.data.cache_files import list_entries, read_entry
from compatbench.data.cards import BackboneCard
from compatbench.data.images.dataset_files import MOST_BYTES
from compatbench.data.images.source import MOST_PIXELS, ImageSource, Sample
from compatbench.data.layouts.containers import open_container
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.method import load_module
from compatbench.method.registry import MethodRegistry


def refused(read: Callable[[], object], message: str) -> None:
    with pytest.raises(CompatbenchError, match=message):
        read()


NESTED = f'{{"about": {{"a": {"[" * 900}{"]" * 900}}}, "trained": []}}'
ABOUT = f'{{"schema": "compatbench-module-2", "sha256": "x", "about": {NESTED}}}'


@pytest.mark.parametrize("header", ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000, ABOUT])
def test_deeply_nested_header_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "features" / "m.safetensors"
    path.parent.mkdir()
    save_file({"features": torch.zeros(2)}, path, {"compatbench": header})
    refused(lambda: load_module(path), "m.safetensors")
    assert read_entry(path) is None
    [entry] = list_entries(tmp_path)
    assert entry.about == {}


@pytest.mark.parametrize("kind", ["zip", "legacy", "torchscript"])
def test_checkpoint_runs_no_code_unless_it_is_trusted(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMPATBENCH_TRUST_PICKLE", raising=False)
    target = tmp_path / "touched"
    path = tmp_path / "w.pt"
    refusal = "more than tensors"
    if kind == "torchscript":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("s/constants.pkl", b"")
            archive.writestr("s/data.pkl", pickle.dumps(TouchesFile(target)))
    else:
        state = {"state_dict": {"w": torch.zeros(2)}, "evil": TouchesFile(target)}
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
        refusal = r"would run code that is in it.*--trust-pickle"
    refused(lambda: read_tensors(path), refusal)
    assert not target.exists()
    if kind != "torchscript":
        monkeypatch.setenv("COMPATBENCH_TRUST_PICKLE", "1")
        with pytest.warns(CompatbenchWarning, match="runs code that is in it"):
            assert read_tensors(path).keys() == {"w"}
        assert target.exists()


def test_method_files_are_run_only_when_named(tmp_path: Path) -> None:
    """A method file is code; one that nobody names is never loaded."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused(lambda: MethodRegistry().select("all"), "no method named 'all'")
    refused(lambda: MethodRegistry().select("evil"), "no method named 'evil'")
    assert not (tmp_path / "ran").exists()
    refused(lambda: MethodRegistry().select(str(tmp_path / "evil.py")), "defines no method")
    assert (tmp_path / "ran").exists()


def test_help_says_that_plug_ins_are_run_as_code() -> None:
    for command in ("run", "plan", "check", "maintain audit", "evaluate"):
        output = output_of(command, "--help")
        assert "as code" in " ".join(output.replace("│", " ").split()), command


CLIP = {
    "config.json": {"model_type": "clip"},
    "preprocessor_config.json": {
        "size": {"height": 4, "width": 4},
        "image_mean": [0, 0, 0],
        "image_std": [1, 1, 1],
    },
}


@cache
def names(count: int) -> bytes:
    """Return a safetensors file of empty tensors."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({str(number): entry for number in range(count)}).encode()
    return len(text).to_bytes(8, "little") + text


@cache
def packed(compression: int, twice: bool = False) -> bytes:
    """Return a checkpoint with parts compressed, or listed twice in the archive's directory."""
    good = io.BytesIO()
    out = io.BytesIO()
    torch.save({"w": torch.zeros(1 << 22)}, good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(out, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        if twice:
            target.filelist += target.filelist
    return out.getvalue()


CHECKPOINTS = {
    "deflate": (lambda: packed(zipfile.ZIP_DEFLATED), "is compressed"),
    "bzip2": (lambda: packed(zipfile.ZIP_BZIP2), "is compressed"),
    "lzma": (lambda: packed(zipfile.ZIP_LZMA), "is compressed"),
    "overlap": (lambda: packed(zipfile.ZIP_STORED, twice=True), "its parts overlap"),
    "names": (lambda: names(100_000), "its header has [0-9,]+ bytes, of"),
    "declared header": (lambda: (2**40).to_bytes(8, "little") + b"{}", "it is no safetensors file"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("provider", ["open_clip", "hf"])
def test_compressed_or_overlapping_checkpoint_is_refused(
    tmp_path: Path, kind: str, provider: str
) -> None:
    make, message = CHECKPOINTS[kind]
    content = make()
    if provider == "open_clip":
        (tmp_path / "w.pt").write_bytes(content)
        refused(lambda: read_tensors(tmp_path / "w.pt"), message)
        return
    for name, values in CLIP.items():
        (tmp_path / name).write_text(json.dumps(values))
    name = "pytorch_model.bin" if content.startswith(b"PK") else "model.safetensors"
    (tmp_path / name).write_bytes(content)
    refused(lambda: build_hf_model(read_backbone(f"hf:{tmp_path}")), message)


class Claim:
    """A pickled tensor that claims a number of elements, and a size of its storage."""

    def __init__(self, count: int, stored: int) -> None:
        self.count = count
        self.storage = ("storage", torch.FloatStorage, "0", "cpu", stored, None)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        arguments = (self.storage, 0, (self.count,), (1,), False, OrderedDict())
        return _rebuild_tensor_v2, arguments


def claiming(kind: str, count: int, stored: int) -> bytes:
    """Return a checkpoint that contains four numbers, and claims other sizes."""
    numbers = torch.arange(4.0).numpy().tobytes()
    out = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            if isinstance(obj, tuple) and obj[:1] == ("storage",):
                return obj
            return None

    if kind == "zip":
        Pickler(out, 2).dump({"w": Claim(count, stored)})
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as parts:
            parts.writestr("a/data.pkl", out.getvalue())
            parts.writestr("a/data/0", numbers)
        return archive.getvalue()
    values = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"w": Claim(count, stored)}]
    for value in (*values, ["0"]):
        Pickler(out, 2).dump(value)
    return out.getvalue() + stored.to_bytes(8, "little") + numbers


MANY = 2_000_000_000  # numbers: 8 GB


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("count", "stored", "message"),
    [
        (4, MANY, "is not as large as it says"),
        (MANY, 4, "'w' has more numbers than are stored"),
        (5, 4, "'w' has more numbers than are stored"),
        (-1, 4, "'w' has no valid shape"),
    ],
)
def test_checkpoint_that_claims_more_than_it_contains_is_refused(
    tmp_path: Path, kind: str, count: int, stored: int, message: str
) -> None:
    (tmp_path / "w.pt").write_bytes(claiming(kind, 4, 4))
    assert read_tensors(tmp_path / "w.pt")["w"].tolist() == [0, 1, 2, 3]
    (tmp_path / "w.pt").write_bytes(claiming(kind, count, stored))
    refused(lambda: read_tensors(tmp_path / "w.pt"), message)


CALL = b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + (4 << 30).to_bytes(8, "little") + b"\x85R."


def test_checkpoint_with_a_large_bytearray_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("a/data.pkl", CALL)
    refused(lambda: read_tensors(tmp_path / "pytorch_model.bin"), "asks for builtins.bytearray")
    for name, values in CLIP.items():
        (tmp_path / name).write_text(json.dumps(values))
    refused(lambda: build_hf_model(read_backbone(f"hf:{tmp_path}")), "asks for builtins.bytearray")


@pytest.mark.timeout(20)
def test_shared_wrappers_in_a_checkpoint_are_read_once(tmp_path: Path) -> None:
    inner: dict[str, object] = {}
    for _ in range(20):
        inner = dict.fromkeys(("state_dict", "model_state_dict", "model", "module"), inner)
    torch.save(inner, tmp_path / "w.pt")
    refused(lambda: read_tensors(tmp_path / "w.pt"), "holds no weights")


def test_tensor_larger_than_its_storage_is_refused(tmp_path: Path) -> None:
    """The checkpoint has one number and claims a million."""
    torch.save({"w": torch.zeros(1).expand(1_000_000)}, tmp_path / "w.pt")
    refused(lambda: read_tensors(tmp_path / "w.pt"), "'w' has more numbers than are stored")


def test_module_and_cache_entry_with_too_many_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(names(100_000))
    refused(lambda: load_module(path), "its header has")
    assert read_entry(path) is None


def test_tokenizer_merges_are_unpacked_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compatbench.backbone.load.tokenizer_files.tasks_folder", lambda: tmp_path)
    facts = dict(name="b", title="B", licence="MIT", config="ViT-B-32", tag="openai")
    card = BackboneCard.model_validate({**facts, "tokenizer": "merges.gz"})
    good = gzip.compress(bytes(MAX_MERGES + 1))
    for content, message in ((good, "unpacks to more"), (good[:99], "cannot read")):
        (tmp_path / "merges.gz").write_bytes(content)
        refused(lambda: build_tokenizer(card, 77), message)


def png(width: int, height: int) -> bytes:
    """Return a PNG that claims this size, without pixels."""
    out = io.BytesIO()
    Image.new("1", (1, 1)).save(out, "PNG")
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\1\0\0\0\0"
    start = out.getvalue()[:12]
    rest = out.getvalue()[33:]
    return start + head + zlib.crc32(head).to_bytes(4, "big") + rest


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(MOST_PIXELS // 1000 + 1, 1000), "pixels"),
        (png(2**31 - 1, 2**31 - 1), "pixels"),
        (png(1, MOST_PIXELS), "pixels"),  # each line takes separate memory
        (EPS, "unknown image format"),
        (b"<html>not found</html>", "unknown image format"),
        (png(9, 9), r"cannot be decoded \([^)]*[Tt]runcated"),
        (b"", "is empty"),
        (None, "larger than 1.0 GiB"),
    ],
)
def test_images_too_large_or_of_unknown_format_are_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content or b"")
    if content is None:  # a file with a hole takes no room
        with path.open("r+b") as file:
            file.truncate(MOST_BYTES + 1)
    refused(lambda: ImageSource(tmp_path, {}).image(Sample("a.png", 0)), f"{path} .*{message}")


@pytest.mark.parametrize("column", ["image", "label"])
def test_parquet_file_is_unpacked_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    """All rows share one stored value: 100 kB in the file, 40 MB in memory."""
    monkeypatch.setattr("compatbench.data.layouts.containers.MOST_BYTES", 10_000_000)
    rows: dict[str, list[object]] = {"image": [png(1, 1)] * 400, "label": ["cat"] * 400}
    large = {"image": bytes(100_000), "label": "x" * 100_000}
    rows[column] = [large[column]] * 400
    path = tmp_path / "a.parquet"
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pytest.importorskip("pyarrow").table(rows), path)
    assert path.stat().st_size < 200_000

    def read() -> None:
        images, _ = open_container(tmp_path, path.name)
        images[0][0].read()

    refused(read, "a.parquet cannot be read: it unpacks to more than 9 MiB")
