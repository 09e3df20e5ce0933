"""Tar shards in CLIP_benchmark's format, read in place."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from data.trees import picture

from compatbench.data.cards.sources import WebdatasetSource
from compatbench.data.layouts.listing import Classes
from compatbench.data.layouts.scanners import open_layout
from compatbench.errors import CompatbenchError

CARD = WebdatasetSource.model_validate({"kind": "webdataset", "folder": "pets", "train": "train"})
CLASSES = Classes("pets", ("cat", "big dog"), ("cat", "big dog"), ("cat", "big dog"))


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def images(*labels: int, first: int = 0) -> list[tuple[str, bytes]]:
    members = []
    for number, label in enumerate(labels, start=first):
        members.append((f"s{number:07}.cls", str(label).encode()))
        kind = ("webp", "png", "jpg")[number % 3]
        content = picture(label, number, {"jpg": "JPEG"}.get(kind, kind.upper()))
        members.append((f"s{number:07}.{kind}", content))
    return members


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    write_shard(root / "train" / "0.tar", images(0, 1, 0))
    write_shard(root / "train" / "1.tar", images(1, first=3))
    write_shard(root / "test" / "0.tar", images(1, 0))
    (root / "train" / "nshards.txt").write_text("2")
    (root / "test" / "nshards.txt").write_text("1\n")
    (root / "classnames.txt").write_text("cat\nbig dog\n")
    return root


def test_images_are_read_where_they_lie_in_the_order_of_the_shards(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    source = open_layout(folder, CARD, CLASSES)
    assert [(s.id, s.label) for s in source.samples["train"]] == [
        ("train/0.tar/s0000000", 0),
        ("train/0.tar/s0000001", 1),
        ("train/0.tar/s0000002", 0),
        ("train/1.tar/s0000003", 1),
    ]
    assert [s.label for s in source.samples["test"]] == [1, 0]
    assert not source.samples["val"]
    for sample in source.samples["train"]:
        image = source.image(sample)
        assert (image.mode, image.size) == ("RGB", (16, 12))
    assert sorted(folder.rglob("*")) == before
    # A member's name tells images apart, and is never a place to write to.
    fingerprint = source.fingerprint(source.samples["test"])
    members = [("../../evil.cls", b"1"), ("../../evil.png", picture(0, 1, "PNG")), *images(0)]
    write_shard(folder / "test" / "0.tar", members)
    source = open_layout(folder, CARD, CLASSES)
    assert [(s.label, source.image(s).size) for s in source.samples["test"]] == [
        (1, (16, 12)),
        (0, (16, 12)),
    ]
    assert source.fingerprint(source.samples["test"]) != fingerprint
    assert sorted(folder.rglob("*")) == before


def special(name: str, kind: bytes) -> Callable[[Path], None]:
    """Writes a shard of one member that is not a plain file."""

    def write(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info, io.BytesIO(b""))

    return write


def shard(*members: tuple[str, bytes]) -> Callable[[Path], None]:
    return lambda path: write_shard(path, members)


def text(name: str, content: str) -> Callable[[Path], object]:
    """Writes a text file in the dataset's folder."""
    return lambda path: (path.parents[1] / name).write_text(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (special("a.png", tarfile.SYMTYPE), "'a.png' is not a plain file"),
        (special("a.cls", tarfile.FIFOTYPE), "'a.cls' is not a plain file"),
        (lambda path: path.write_bytes(path.read_bytes()[:1700]), "0.tar cannot be read"),
        (Path.unlink, "0.tar is missing"),
        (lambda path: path.write_bytes(gzip.compress(path.read_bytes())), "cannot be read"),
        (shard(*images(1)[:1]), "'s0000000' is not an image with a label"),
        (shard(*images(1)[1:]), "'s0000000' is not an image with a label"),
        (shard(*images(-1)), "'s0000000' is not an image with a label"),
        (shard(("a.cls", b"x" * 99)), "0.tar cannot be read: .*invalid literal"),
        (shard(("a\nb.cls", b"1")), "is not a plain file"),
        (text("test/nshards.txt", "9" * 5000), "it holds the number of shards"),
        (text("test/nshards.txt", "-1"), "it holds the number of shards"),
        (text("classnames.txt", "big dog\ncat\n"), "0 is 'big dog', .* is 'cat' .*another order"),
        (text("classnames.txt", "cat\n"), "1 classes, the card of 'pets' has 2"),
    ],
)
def test_a_wrong_file_is_one_clear_line(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    before = sorted(folder.parent.rglob("*"))
    spoil(folder / "test" / "0.tar")
    with pytest.raises(CompatbenchError, match=message) as raised:
        open_layout(folder, CARD, CLASSES)
    assert "\n" not in str(raised.value)
    assert set(folder.parent.rglob("*")) <= set(before)


def test_a_damaged_image_is_named(folder: Path) -> None:
    write_shard(folder / "test" / "0.tar", [("a.cls", b"0"), ("a.png", b"no image")])
    source = open_layout(folder, CARD, CLASSES)
    with pytest.raises(CompatbenchError, match=r"image .*test/0.tar/a cannot be decoded"):
        source.image(source.samples["test"][0])
