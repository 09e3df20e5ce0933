"""Tar shards in CLIP_benchmark's format, read in place."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from data.trees import picture

from compatbench.data.cards.schemas import WebdatasetSource
from compatbench.data.labels import Classes
from compatbench.data.sources.layouts import read_webdataset
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
    source = read_webdataset(folder, CARD, CLASSES)
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


def test_the_size_of_an_image_is_part_of_the_fingerprint(folder: Path) -> None:
    source = read_webdataset(folder, CARD, CLASSES)
    before = source.fingerprint(source.samples["test"])
    members = images(1, 0)
    members[1] = (members[1][0], members[1][1] + b" ")
    write_shard(folder / "test" / "0.tar", members)
    changed = read_webdataset(folder, CARD, CLASSES)
    assert changed.fingerprint(changed.samples["test"]) != before


def test_names_that_would_leave_the_folder_harm_nothing(folder: Path) -> None:
    """A member's name tells images apart and is never a place to write to."""
    members = [("../../evil.cls", b"0"), ("../../evil.png", picture(0, 1, "PNG"))]
    write_shard(folder / "test" / "0.tar", members)
    source = read_webdataset(folder, CARD, CLASSES)
    [sample] = source.samples["test"]
    source.image(sample)
    assert not list(folder.parent.parent.glob("evil*"))


def special(name: str, kind: bytes) -> Callable[[Path], None]:
    """Writes a shard of one member that is no plain file."""

    def write(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info, io.BytesIO(b""))

    return write


def shard(*members: tuple[str, bytes]) -> Callable[[Path], None]:
    return lambda path: write_shard(path, members)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (special("a.png", tarfile.SYMTYPE), "'a.png' is not a plain file"),
        (special("a.png", tarfile.LNKTYPE), "'a.png' is not a plain file"),
        (special("a.cls", tarfile.CHRTYPE), "'a.cls' is not a plain file"),
        (special("a.cls", tarfile.FIFOTYPE), "'a.cls' is not a plain file"),
        (special("/tmp/escape.png", tarfile.REGTYPE), "'/?tmp/escape' has no label"),
        (lambda path: path.write_bytes(path.read_bytes()[:2400]), "0.tar (is cut|cannot be read)"),
        (Path.unlink, "0.tar is missing"),
        (lambda path: path.write_bytes(gzip.compress(path.read_bytes())), "cannot be read"),
        (shard(*images(1)[:1]), "'s0000000' has no image"),
        (shard(*images(1)[1:]), "'s0000000' has no label"),
        (shard(*images(7)), "has label 7; the card has 2 classes"),
        (shard(("a.cls", b"x" * 99)), "'a.cls' holds no label"),
        (shard(("a.cls", b"-1")), "holds no label: '-1'"),
        (shard(*images(1), *images(1)), "two images 's0000000'"),
    ],
)
def test_a_wrong_shard_is_one_clear_line(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    before = sorted(folder.parent.rglob("*"))
    spoil(folder / "test" / "0.tar")
    with pytest.raises(CompatbenchError, match=message) as raised:
        read_webdataset(folder, CARD, CLASSES)
    assert "\n" not in str(raised.value)
    assert set(folder.parent.rglob("*")) <= set(before)


NO_NUMBERS = ("many", "9" * 5000, "9999999999", "-1", "1e3", "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        *(("test/nshards.txt", text, "it holds the number of shards") for text in NO_NUMBERS),
        ("classnames.txt", "big dog\ncat\n", "0 is 'big dog', .* is 'cat' .*another order"),
        ("classnames.txt", "cat\n", "1 classes, the card of 'pets' has 2"),
    ],
)
def test_a_wrong_text_file_is_one_clear_line(
    folder: Path, name: str, content: str, message: str
) -> None:
    (folder / name).write_text(content)
    with pytest.raises(CompatbenchError, match=message):
        read_webdataset(folder, CARD, CLASSES)


def test_a_damaged_image_is_named(folder: Path) -> None:
    write_shard(folder / "test" / "0.tar", [("a.cls", b"0"), ("a.png", b"no image")])
    source = read_webdataset(folder, CARD, CLASSES)
    with pytest.raises(CompatbenchError, match=r"image .*test/0.tar/a cannot be decoded"):
        source.image(source.samples["test"][0])
