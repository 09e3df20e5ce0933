"""``data fetch`` against a server on this machine that breaks off, lies and sends other files."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from command_line import invoke, output_of
from data.trees import DATASETS
from hub_stand_in import LocalServer

import compatbench as cb
from compatbench.data import download as downloads
from compatbench.data.cards import task_cards
from compatbench.data.fetch_datasets import DRIVE_FILE, DRIVE_PAGE, Fetched
from compatbench.errors import CompatbenchError

IMAGES: dict[str, bytes] = {}
for split, name, number in itertools.product(("train", "test"), ("circle", "square"), range(2)):
    IMAGES[f"{split}/{name}/{number}.jpg"] = f"{split} {name} {number}".encode() * 2000
CARD = {
    "name": "shapes",
    "title": "Shapes",
    "classes": ["circle", "square"],
    "templates": ["a photo of a {}."],
    "source": {"kind": "class-folders", "folder": "data", "train": "train", "test": "test"},
    "counts": {"train": 4, "test": 4},
    "licence": "for friends only",
    "homepage": "https://example.org/shapes",
}
GIVES = {"train": "top/train", "test": "top/test"}


def make_zip(files: dict[str, bytes], top: str = "top/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{top}{name}", content)
    return buffer.getvalue()


def make_tar(files: dict[str, bytes], *others: tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(f"top/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in others:
            archive.addfile(member)
    return buffer.getvalue()


class Server(LocalServer):
    """Serves ``files`` by name, with ranges and entity tags; ``breaks`` are used up, one each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # of the card
        self.data = folder / "data"  # of the dataset
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []  # bytes after which an answer ends
        self.kind = "application/octet-stream"
        self.asked: list[str] = []  # the Range of each request, or ''
        super().__init__()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        wanted = to.headers.get("Range", "")
        self.asked.append(wanted)
        content = self.files.get(to.path[1:])
        if content is None:
            to.send_error(404)
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if wanted and to.headers.get("If-Range", tag) == tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        to.send_response(206 if start else 200)
        if start:
            to.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        to.send_header("Content-Length", str(len(content) - start))
        to.send_header("Content-Type", self.kind)
        to.send_header("ETag", tag)
        to.end_headers()
        end = start + self.breaks.pop(0) if self.breaks else len(content)
        to.wfile.write(content[start:end])

    def fetch(self, **fields: Any) -> Fetched:
        """Write the card of the task ``shapes`` and fetch it."""
        about = {"url": f"{self.url}/shapes.zip", "hash": "none is published", "gives": GIVES}
        card = CARD | {"downloads": [about | fields]}
        (self.folder / "shapes.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
        (found,) = cb.fetch_data("shapes")
        for problem in found.problems:
            assert "\n" not in problem
        assert found.ready or found.problems
        return found


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setenv("COMPATBENCH_CARDS", str(tmp_path))
    server = Server(tmp_path)
    yield server
    server.http.shutdown()
    server.http.server_close()


def lies_in(folder: Path) -> set[str]:
    """Return the files below a folder, except the lock of a running fetch."""
    files = {path for path in folder.rglob("*") if not path.is_dir()}
    return {str(path.relative_to(folder)) for path in files if path.name != ".fetching"}


def test_interrupted_download_resumes_and_second_run_does_nothing(server: Server) -> None:
    content = server.files["shapes.zip"] = make_zip(IMAGES)
    server.breaks = [5000, 7000]
    found = server.fetch()
    assert found.ready
    assert found.files == ("shapes.zip",)
    assert server.asked == ["", "bytes=5000-", "bytes=12000-"]
    assert lies_in(server.data) == {*IMAGES, "downloads.json"}
    for name, image in IMAGES.items():
        assert (server.data / name).read_bytes() == image
    lock = json.loads((server.data / "downloads.json").read_text())["shapes.zip"]
    assert (lock["bytes"], lock["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    again = server.fetch()
    assert again.ready
    assert again.files == ()
    assert len(server.asked) == 3


def test_later_run_resumes_unless_the_file_changed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "TRIES", 1)
    server.files["shapes.zip"] = make_zip(IMAGES)
    for run, start in enumerate(("", "bytes=4000-")):
        server.breaks = [4000, 0]
        (problem,) = server.fetch().problems
        assert "broke off" in problem
        assert "continues from there" in problem
        assert server.asked[-2] == start, run
        assert lies_in(server.data) == {"shapes.zip.part", "shapes.zip.part.tag"}
    # With If-Range the server sends all of its new file, so the two are not mixed.
    server.files["shapes.zip"] = make_zip(IMAGES | {"train/circle/0.jpg": b"new"})
    assert server.fetch().ready
    assert server.asked[-1] == "bytes=8000-"
    assert (server.data / "train/circle/0.jpg").read_bytes() == b"new"


def test_download_with_wrong_hash_is_deleted(server: Server) -> None:
    content = server.files["shapes.zip"] = make_zip(IMAGES)
    for wrong in (f"md5:{32 * '0'}", f"sha256:{64 * '0'}"):
        (problem,) = server.fetch(hash=wrong).problems
        assert f"not {wrong.partition(':')[2]}" in problem
        assert lies_in(server.data) == set()
    (problem,) = server.fetch(bytes=5).problems
    assert "not 5" in problem
    assert server.fetch(hash=f"md5:{hashlib.md5(content).hexdigest()}", bytes=len(content)).ready
    # Without a published hash, later downloads must equal the first one.
    (server.data / "test").rename(server.folder / "elsewhere")
    server.files["shapes.zip"] = make_zip(IMAGES | {"test/square/0.jpg": b"other"})
    (problem,) = server.fetch().problems
    assert hashlib.sha256(content).hexdigest() in problem
    assert not (server.data / "test").exists()
    (server.data / "downloads.json").unlink()
    assert server.fetch().ready


def make_member(name: str, kind: bytes, to: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = to
    return member


EVIL = r"shapes.zip is not unpacked.*evil"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (make_zip(IMAGES) + make_zip(IMAGES | {"../../evil.jpg": b"x"}), EVIL),
        (make_zip(IMAGES | {"/tmp/evil.jpg": b"x"}, top=""), EVIL),
        (make_zip(IMAGES | {"..\\..\\evil.jpg": b"x"}), EVIL),
        (make_tar(IMAGES | {"../../evil.jpg": b"x"}), EVIL),
        (make_tar(IMAGES, make_member("top/train/evil", tarfile.SYMTYPE, "../../../..")), EVIL),
        (make_tar(IMAGES, make_member("top/train/evil", tarfile.LNKTYPE, "/etc/passwd")), EVIL),
        (make_tar(IMAGES, make_member("top/train/evil", tarfile.FIFOTYPE), mode="w"), EVIL),
        (b"no archive", "is damaged, or no zip or tar archive"),
        (make_zip(IMAGES)[:-300], "is damaged"),
        (make_tar(IMAGES)[:-20], "is damaged"),
        (make_zip({"train/circle/0.jpg": b"x"}), "holds no 'top/test'"),
    ],
)
def test_damaged_or_escaping_archive_is_not_unpacked(
    server: Server, content: bytes, line: str
) -> None:
    server.files["shapes.zip"] = content
    (problem,) = server.fetch().problems
    assert re.search(line, problem)
    assert lies_in(server.folder) == {"shapes.yaml", "data/shapes.zip"}
    (server.data / "shapes.zip").unlink()
    server.files["shapes.zip"] = make_zip(IMAGES)
    assert server.fetch().ready  # the hash of the damaged archive was not recorded


def test_nested_and_manually_downloaded_archives_are_unpacked(server: Server) -> None:
    server.files["shapes.zip"] = make_zip({"inner.tar.gz": make_tar(IMAGES)})
    assert server.fetch(inner="top/inner.tar.gz").ready
    assert lies_in(server.data) == {*IMAGES, "downloads.json"}
    (server.data / "test").rename(server.folder / "elsewhere")
    by_hand = {"url": None, "file": "mine.tar", "page": "https://example.org/get", "note": "Ask."}
    (problem,) = server.fetch(**by_hand).problems
    path = server.data / "mine.tar"
    assert f"get it from https://example.org/get, save it as {path}, and run" in problem
    assert "Ask." in problem
    path.write_bytes(make_tar(IMAGES, mode="w"))
    assert server.fetch(**by_hand).ready


@pytest.mark.parametrize(
    ("at", "kept"),
    [
        ("before", set()),
        ("part", {"shapes.zip.part", "shapes.zip.part.tag"}),
        ("image", {"shapes.zip"}),
    ],
)
def test_full_disk_leaves_no_partial_files(
    server: Server, monkeypatch: pytest.MonkeyPatch, at: str, kept: set[str]
) -> None:
    server.files["shapes.zip"] = make_zip(IMAGES)

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if at == "before":
            patch.setattr(downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=999))
        elif at == "part":
            patch.setattr(downloads.os, "fsync", fill)
        else:
            patch.setattr(zipfile.shutil, "copyfileobj", fill)
        (problem,) = server.fetch().problems
    assert problem.startswith("no room for ")
    assert lies_in(server.data) == kept
    assert server.fetch().ready
    assert len(server.asked) == (1 if at == "image" else 2)


def test_licence_must_be_accepted_before_download(server: Server) -> None:
    server.files["shapes.zip"] = make_zip(IMAGES)
    (problem,) = server.fetch(agree=True).problems
    assert "must be agreed to: for friends only" in problem
    result = invoke("store data fetch", "shapes")
    assert result.exit_code == 1
    assert "give --agree" in result.stdout
    assert server.asked == []
    assert lies_in(server.data) == set()
    shown = output_of("store data fetch", "shapes", "--agree")
    assert "shapes: licence: for friends only (https://example.org/shapes)" in shown
    assert "found shapes" in shown
    assert "train 4, test 4" in shown


def test_unavailable_download_explains_manual_steps(server: Server) -> None:
    (problem,) = server.fetch().problems
    assert "answers with 404" in problem
    server.files["shapes.zip"] = b"<html>Are you sure?</html>"
    server.kind = "text/html"
    (problem,) = server.fetch().problems
    assert "answers with a web page" in problem
    assert f"save it as {server.data / 'shapes.zip'}" in problem
    assert lies_in(server.data) == set()
    page = "https://drive.google.com/file/d/1a-B_c/view"
    assert "download?id=1a-B_c&export=download" in DRIVE_PAGE.sub(DRIVE_FILE, page)
    with pytest.raises(CompatbenchError, match="name tasks, or a suite"):
        cb.fetch_data()
    with pytest.raises(CompatbenchError, match=r"shapes.yaml:\d+: field 'downloads"):
        server.fetch(hash="md5:short")


@pytest.mark.parametrize("name", DATASETS)
def test_every_card_lists_downloads_of_all_its_files(name: str) -> None:
    card = task_cards.read(name)
    source: Any = card.source
    targets: set[str] = set()
    for download in card.downloads:
        assert download.hash
        assert download.licence or card.licence
        targets |= set(download.targets)
    if name == "imagenet":  # behind an account, and unpacked by torchvision
        for download in card.downloads:
            assert download.page
            assert download.agree
        return
    needed = {"images"}
    if source.kind == "coop-split":
        needed = {source.split, source.images}
    elif source.kind == "class-folders":
        needed = {source.test}
    assert needed - {"."} <= targets


def test_present_weights_are_not_fetched_and_missing_ones_give_advice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    here, missing = cb.fetch_backbones(["mini-clip", "ViT-B-16/laion2b_s34b_b88k"])
    assert here.file is not None
    assert here.file.is_file()
    assert missing.file is None
    assert "hf download" in missing.problem
    assert "found mini-clip" in output_of("store data weights", "mini-clip")
