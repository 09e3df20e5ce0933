"""Encoding and the feature cache: decoded and computed once, checked on every read, shared."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import invoke
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from typer.testing import Result
from warm_processes import CONTEXT

from compatbench.backbone import FEATURES, ImageInput, load_backbone
from compatbench.backbone.build import allow_tf32
from compatbench.backbone.device import MAX_IMAGES, fit_batch
from compatbench.data import encoding, feature_cache
from compatbench.data.cache_files import (
    FEATURES as ENTRY_FEATURES,
)
from compatbench.data.cache_files import (
    Unfinished,
    list_entries,
    prune_entries,
    read_entry,
    write_entry,
)
from compatbench.data.encoding import BATCH, Images
from compatbench.data.feature_cache import PART, FeatureCache, FreshRows, StoredRows
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.data.images.source import ImageSource, Sample
from compatbench.data.images.views import View
from compatbench.data.task import Task
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files import locks
from compatbench.files.hashes import canonical_json, sha256_json
from compatbench.files.sizes import format_bytes, parse_bytes
from compatbench.files.tensors import KEY


class FakeBackbone:
    """Its features are the mean colour of the image; encoded images are counted."""

    name = "fake"
    embed_dim = 3
    device = torch.device("cpu")
    dtype = torch.float32
    refuse: Callable[[torch.Tensor], object] | None = None  # raises an error

    def __init__(self) -> None:
        self.card = SimpleNamespace(config="fake")
        self.weights_key = "a" * 64
        self.preprocess_settings = {"size": (8, 8)}
        self.encoded = 0

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()

    def encode_images(self, images: torch.Tensor, wanted: ImageInput = FEATURES) -> torch.Tensor:
        if self.refuse is not None:
            self.refuse(images)
        self.encoded += len(images)
        features = images.mean((-1, -2))
        if wanted == FEATURES:
            return features
        return features[:, None] + images.flatten(2).mT


class FakeTask(Task):
    name = "fake"

    def __init__(self, count: int = 5) -> None:
        self.images = "one"
        self.decoded = 0
        self.samples = [Sample(f"image {i}", 0) for i in range(count)]
        self.source = self  # type: ignore[assignment]

    def fingerprint(self, samples: Sequence[Sample]) -> str:
        return f"{self.images} {[sample.id for sample in samples]}"

    def image(self, sample: Sample) -> Image.Image:
        self.decoded += 1
        number = int(sample.id.split()[1])
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return Image.fromarray(pixels)


def test_features_are_in_image_order_and_computed_once(tmp_path: Path) -> None:
    backbone = FakeBackbone()
    task = FakeTask(count=BATCH * 2 + 3)
    told: list[tuple[int, int]] = []
    cache = FeatureCache(tmp_path, lambda *progress: told.append(progress))
    features = cache.features(backbone, task, task.samples)
    assert cache.features(backbone, task, [], split=[]).shape == (0, 3)
    count = len(task.samples)
    assert told == [(BATCH, count), (2 * BATCH, count), (count, count)]
    expected = []
    for sample in task.samples:
        pixels = np.asarray(task.image(sample), dtype=np.float64)
        expected.append(pixels.mean((0, 1)))
    np.testing.assert_allclose(features.numpy(), expected, rtol=1e-6)
    other = FakeBackbone()
    again = FeatureCache(tmp_path).features(other, task, task.samples)
    assert (backbone.encoded, other.encoded) == (count, 0)
    assert torch.equal(again, features)


def test_feature_key_is_stable_and_covers_every_input() -> None:
    def key(number: int = 0, count: int = 5, images: str = "one", **changes: Any) -> str:
        backbone = FakeBackbone()
        task = FakeTask(count)
        task.images = images
        vars(backbone).update(changes)
        return Images(backbone, task, task.samples, View(number)).key

    values: list[Any] = ["a" * 64, "fake", {"size": (8, 8)}, "torch.float32"]
    values += [FakeTask().fingerprint(FakeTask().samples), [0], ["features", 0], ENGINE_VERSION]
    assert key() == sha256_json(values)
    cuda = torch.device("cuda")
    half = torch.float16
    names = {key(), key(number=1), key(count=4), key(images="two"), key(weights_key="b" * 64)}
    names |= {key(preprocess_settings={"size": (9, 9)}), key(dtype=torch.bfloat16)}
    names |= {key(device=cuda), key(device=cuda, dtype=half), key(device=torch.device("mps"))}
    assert key(device=torch.device("cuda:1")) == key(device=cuda)
    allow_tf32(True)
    names.add(key(device=cuda))
    allow_tf32(False)
    assert len(names) == 11
    assert key(device=cuda) in names


def test_damaged_entry_is_recomputed_with_a_warning(tmp_path: Path) -> None:
    backbone = FakeBackbone()
    task = FakeTask()
    before = FeatureCache(tmp_path).features(backbone, task, task.samples)
    [entry] = list_entries(tmp_path)
    entry.path.write_bytes(entry.path.read_bytes()[:-1] + b"\x7f")
    with pytest.warns(CompatbenchWarning, match="damaged and is computed again"):
        after = FeatureCache(tmp_path).features(backbone, task, task.samples)
    assert torch.equal(before, after)
    assert backbone.encoded == 10
    assert read_entry(entry.path) is not None


def test_an_entry_in_the_place_of_another_is_recomputed(tmp_path: Path) -> None:
    """Both files are whole, and have the same size."""
    backbone = FakeBackbone()
    task = FakeTask()
    halves = [task.samples[:2], task.samples[2:4]]
    before = [FeatureCache(tmp_path).features(backbone, task, half) for half in halves]
    first, second = (entry.path for entry in list_entries(tmp_path))
    first.rename(tmp_path / "other")
    second.rename(first)
    (tmp_path / "other").rename(second)
    with pytest.warns(CompatbenchWarning, match="holds the features of another entry and is comp"):
        after = [FeatureCache(tmp_path).features(backbone, task, half) for half in halves]
    assert all(map(torch.equal, before, after))


def test_an_entry_that_does_not_name_its_key_is_recomputed_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    backbone = FakeBackbone()
    task = FakeTask()
    before = FeatureCache(tmp_path).features(backbone, task, task.samples)
    [entry] = list_entries(tmp_path)
    header = canonical_json({"sha256": "0", "header": "0"})
    entry.path.write_bytes(save({ENTRY_FEATURES: before.clone()}, {KEY: header}))
    assert torch.equal(FeatureCache(tmp_path).features(backbone, task, task.samples), before)
    assert backbone.encoded == 10
    assert not [each for each in recwarn if each.category is CompatbenchWarning]


def test_rows_of_another_unfinished_entry_are_not_used(tmp_path: Path) -> None:
    ours = Unfinished([tmp_path / "a.safetensors"])
    for start in (0, 2):
        ours.write(start, torch.ones(1, 2, 3), {})
    assert len(ours.read()[0][0]) == 4
    (tmp_path / "b.parts").mkdir()
    for part in (tmp_path / "a.parts").iterdir():
        part.rename(tmp_path / "b.parts" / part.name)
    assert Unfinished([tmp_path / "b.safetensors"]).read() == []


def test_cache_deleted_during_a_run_is_reported_with_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = FakeBackbone()
    task = FakeTask()
    cache = FeatureCache(tmp_path)
    message = "its folder was deleted meanwhile; run the command again"

    def delete(*_: object, **__: object) -> None:
        shutil.rmtree(tmp_path / "features")
        raise FileNotFoundError(2, "No such file or directory")

    with monkeypatch.context() as patch:
        patch.setattr(locks.FileLock, "acquire", delete)
        with pytest.raises(CompatbenchError, match=message):
            cache.features(backbone, task, task.samples)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", delete)
        with pytest.raises(CompatbenchError, match=message):
            cache.features(backbone, task, task.samples)
    cache.features(backbone, task, task.samples)


def test_a_broken_image_is_an_error_again_and_keeps_no_tensors(tmp_path: Path) -> None:
    backbone = FakeBackbone()
    task = FakeTask()

    def refuse(_: object) -> None:
        raise BrokenImages("image 3 cannot be decoded")

    backbone.refuse = refuse
    cache = FeatureCache(tmp_path)
    errors = []
    for _ in range(3):
        with pytest.raises(BrokenImages, match="image 3 cannot be decoded") as caught:
            cache.features(backbone, task, task.samples)
        errors.append(caught.value)
    assert task.decoded == len(task.samples)
    # An error that is raised again would keep the frames of every caller.
    assert len({*map(id, errors)}) == 3


def test_tokens_are_read_by_row_and_by_batch(tmp_path: Path) -> None:
    backbone = FakeBackbone()
    task = FakeTask(count=PART + BATCH + 3)
    wanted = ImageInput("hidden", 1)
    [tokens] = FeatureCache(tmp_path).tokens(backbone, task, task.samples, wanted)
    images = torch.stack([backbone.preprocess(task.image(sample)) for sample in task.samples])
    expected = backbone.encode_images(images, wanted)
    assert len(tokens) == len(expected)
    index = torch.tensor([PART + 1, 0, 7, PART - 1, PART, len(expected) - 1, 0])
    assert torch.equal(tokens[index], expected[index])
    other = FakeBackbone()
    FeatureCache(tmp_path).tokens(other, task, task.samples, wanted)
    assert other.encoded == 0
    assert sorted(entry.about["images"] for entry in list_entries(tmp_path)) == [BATCH + 3, PART]
    batches = list(tokens.batches())
    assert torch.equal(torch.cat(batches), expected)
    assert max(len(batch) for batch in batches) == BATCH


def test_test_views_follow_the_plain_image(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    backbone = FakeBackbone()
    task = FakeTask()
    wanted = ImageInput("hidden", 1)
    several = ImageInput("hidden", 1, views=2)
    [found] = cache.tokens(backbone, task, task.samples, several, [View(5)])
    rows = torch.tensor([3, 0])
    views = []
    for number in range(3):
        [tokens] = cache.tokens(backbone, task, task.samples, wanted, [View(number)])
        views.append(tokens[rows])
    assert torch.equal(found[rows], torch.stack(views, dim=1))
    assert not torch.equal(views[1], views[2])
    assert torch.cat([*found.batches()]).shape[:2] == (5, 3)
    assert backbone.encoded == 3 * 5


@pytest.mark.parametrize(("drawn", "encoded"), [(4, 8), (5, 10), (10, 10)])
def test_large_draws_share_the_encoded_split(tmp_path: Path, drawn: int, encoded: int) -> None:
    task = FakeTask(count=10)
    cache = FeatureCache(tmp_path)
    wanted = ImageInput("hidden")
    draws = [task.samples[:drawn], task.samples[::-1][:drawn]]
    backbone = FakeBackbone()
    plain = FakeBackbone()
    features = [cache.features(backbone, task, d, split=task.samples) for d in draws]
    assert backbone.encoded == encoded
    alone = FeatureCache(tmp_path / "alone")
    for found, draw in zip(features, draws, strict=True):
        assert torch.equal(found, alone.features(plain, task, draw))
        [tokens] = cache.tokens(backbone, task, draw, wanted, split=task.samples)
        [expected] = alone.tokens(plain, task, draw, wanted)
        assert len(tokens) == len(expected) == drawn
        assert torch.equal(torch.cat(list(tokens.batches())), torch.cat(list(expected.batches())))


def test_stored_tokens_keep_their_precision_and_are_memory_mapped(tmp_path: Path) -> None:
    """Mapped files take room in the page cache, not in the memory of the process."""
    path = tmp_path / "entry.safetensors"
    tokens = torch.arange(2.0**23).reshape(4, -1).bfloat16()
    write_entry(path, tokens, {})
    found = read_entry(path)
    assert found is not None
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, tokens)
    with path.open("rb") as file:
        mapped = Path(f"/proc/{os.getpid()}/maps")
        if not mapped.exists():
            pytest.skip("the system does not say what is mapped")
        assert os.fstat(file.fileno()).st_size > 2**24
        assert str(path) in mapped.read_text()


def test_concurrent_readers_compute_features_once(tmp_path: Path) -> None:
    """Locks are files, so they work between processes as between these threads."""
    task = FakeTask(count=300)
    backbone = FakeBackbone()

    def compute(_: int) -> torch.Tensor:
        return FeatureCache(tmp_path).features(backbone, task, task.samples)

    with ThreadPoolExecutor(3) as threads:
        first, *others = threads.map(compute, range(3))
    assert backbone.encoded == 300
    for other in others:
        assert torch.equal(first, other)


def test_waiting_for_another_process_that_encodes_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.01)
    task = FakeTask()
    backbone = FakeBackbone()
    FeatureCache(tmp_path).features(backbone, task, task.samples)
    [entry] = list_entries(tmp_path)
    entry.path.unlink()
    lock = locks.acquire_lock(entry.path.with_suffix(".lock"), tmp_path)
    waits: list[int] = []

    def wait() -> None:
        waits.append(1)
        if len(waits) == 3:
            lock.release()

    cache = FeatureCache(tmp_path)
    cache.on_wait = wait
    cache.features(backbone, task, task.samples)
    assert len(waits) == 3


def test_without_locks_features_are_computed_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    task = FakeTask()
    with pytest.warns(CompatbenchWarning, match="without locks"):
        FeatureCache(tmp_path).features(FakeBackbone(), task, task.samples)
    assert len(list_entries(tmp_path)) == 1


def test_cache_limit_evicts_the_least_recently_used(tmp_path: Path) -> None:
    task = FakeTask(3)
    backbone = FakeBackbone()
    cache = FeatureCache(tmp_path, limit=10**9)

    def features(which: int) -> int:
        before = backbone.encoded
        cache.features(backbone, task, task.samples[which : which + 1])
        cache._memory.clear()
        return backbone.encoded - before

    assert features(0) == 1
    [entry] = list_entries(tmp_path)
    cache.limit = 5 * entry.size // 2  # two of them
    assert [features(which) for which in (1, 0, 2, 0, 1)] == [1, 0, 1, 0, 1]


class Rounding(FakeBackbone):
    """Its last digits depend on how many images are encoded together."""

    def encode_images(self, images: torch.Tensor, wanted: ImageInput = FEATURES) -> torch.Tensor:
        return super().encode_images(images, wanted) + len(images)


@pytest.mark.parametrize("views", [0, 2])
def test_tokens_encoded_on_demand_equal_stored_ones(tmp_path: Path, views: int) -> None:
    task = FakeTask(count=PART + BATCH + 10)
    wanted = ImageInput("hidden", 1, views=views)
    last = len(task.samples) - 1

    def see(cache: FeatureCache, backbone: Any) -> StoredRows:
        # In another order than they are stored in.
        backwards = task.samples[::-1]
        [tokens] = cache.tokens(backbone, task, backwards, wanted, split=task.samples)
        return tokens

    backbones: list[Any] = [Rounding()]
    if views == 0:
        backbones.append(load_backbone("mini-clip"))
    for backbone in backbones:
        stored = see(FeatureCache(tmp_path / "all"), backbone)
        fresh = see(FeatureCache(tmp_path / "few", limit=1), backbone)
        assert (type(stored), type(fresh)) == (StoredRows, FreshRows)
        for index in ([last - 3, 0, last, 0, 70], [0, 1], [5], range(80, 180)):
            assert torch.equal(fresh[torch.tensor(index)], stored[torch.tensor(index)])
        assert all(map(torch.equal, fresh.batches(), stored.batches()))
        assert list_entries(tmp_path / "few") == []


def test_rows_are_prefetched_for_accelerators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = FakeTask(count=3 * BATCH)
    wanted = ImageInput("hidden", 1)
    backbone = FakeBackbone()
    [rows] = FeatureCache(tmp_path, limit=1).tokens(backbone, task, task.samples, wanted)
    parts = torch.arange(3 * BATCH).split(BATCH)
    expected = [rows[part] for part in parts]
    before = backbone.encoded
    rows.prefetch(parts[0])  # a processor has no time beside what it computes
    assert backbone.encoded == before
    monkeypatch.setattr(feature_cache, "reads_ahead", lambda device: True)
    for number, batch in enumerate(rows.batches()):
        feature_cache._READER.submit(lambda: None).result()  # behind what is read ahead
        assert torch.equal(batch, expected[number])
        assert backbone.encoded == before + BATCH * min(number + 2, 3)  # none again
    rows.prefetch(parts[1])
    assert torch.equal(rows[parts[2]], expected[2])  # what was not foreseen


def test_token_sets_together_use_half_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If each set took half of the room that is left, they would fill the disk."""
    task = FakeTask(count=8)
    cache = FeatureCache(tmp_path)
    room = 10**9

    def free(_: object) -> SimpleNamespace:
        used = sum(entry.size for entry in list_entries(tmp_path))
        return SimpleNamespace(free=room - used)

    monkeypatch.setattr(feature_cache.shutil, "disk_usage", free)

    def see(block: int) -> StoredRows:
        wanted = ImageInput("hidden", block)
        [tokens] = cache.tokens(FakeBackbone(), task, task.samples, wanted)
        return tokens

    assert type(see(0)) is StoredRows
    room = 5 * sum(entry.size for entry in list_entries(tmp_path))  # two sets and a half
    kinds = [type(see(block)) for block in (1, 2, 0)]
    assert kinds == [StoredRows, FreshRows, StoredRows]


def test_pruning_deletes_the_oldest_entries_first(tmp_path: Path) -> None:
    for number, age in enumerate([50, 300, 100, 200]):
        path = tmp_path / "features" / "00" / f"{number}.safetensors"
        write_entry(path, torch.zeros(10, 10), {"backbone": "b", "task": "t"})
        now = path.stat().st_mtime
        os.utime(path, (now - age, now - age))

    def cache(*words: str) -> Result:
        return invoke("store cache", *words, COMPATBENCH_CACHE=str(tmp_path))

    assert "4 entries" in cache("ls").output
    oldest, *_, youngest = list_entries(tmp_path)
    with pytest.raises(CompatbenchError, match="say what to delete"):
        cache("prune")
    deleted = prune_entries(tmp_path, max_bytes=2 * oldest.size, max_age=None)
    assert [entry.path.stem for entry in deleted] == ["1", "3"]
    deleted = prune_entries(tmp_path, max_bytes=None, max_age=80)
    assert [entry.path.stem for entry in deleted] == ["2"]
    assert [entry.path for entry in list_entries(tmp_path)] == [youngest.path]
    assert "deleted 1 entr" in cache("prune", "--all").output
    assert list_entries(tmp_path) == []


@given(st.integers(0, 2**50))
def test_parsed_size_equals_the_formatted_one(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.06, abs=1)


VIEWS = [View(), View(1), View(2), View(mirror=True)]


@pytest.mark.parametrize("wanted", [FEATURES, ImageInput("hidden", 1)])
def test_image_is_decoded_once_for_all_views(tmp_path: Path, wanted: ImageInput) -> None:
    count = 2 * BATCH + 3
    task = FakeTask(count)
    backbone = FakeBackbone()

    def see(cache: FeatureCache, views: list[View]) -> list[torch.Tensor]:
        if wanted == FEATURES:
            return cache.features_of_views(backbone, task, task.samples, views)
        tokens = cache.tokens(backbone, task, task.samples, wanted, views)
        return [torch.cat(list(rows.batches())) for rows in tokens]

    def stored_names(folder: Path) -> set[str]:
        return {entry.path.name for entry in list_entries(folder)}

    alone = FeatureCache(tmp_path / "alone")
    expected = [see(alone, [view])[0] for view in VIEWS]
    assert task.decoded == len(VIEWS) * count
    task.decoded = 0
    found = see(FeatureCache(tmp_path / "together"), [*VIEWS, VIEWS[1]])
    # The size of an image's tokens is not known before one view has been computed.
    decodings = 1 if wanted == FEATURES else 2
    assert task.decoded == count * decodings
    assert all(map(torch.equal, found, [*expected, expected[1]]))
    assert stored_names(tmp_path / "alone") == stored_names(tmp_path / "together")


def test_batches_too_large_for_memory_are_halved(tmp_path: Path) -> None:
    def refuse(images: torch.Tensor) -> None:
        if len(images) > fits:
            raise torch.cuda.OutOfMemoryError

    task = FakeTask(BATCH + 5)
    backbone = FakeBackbone()
    fits = 9
    expected = FeatureCache(tmp_path / "whole").features(FakeBackbone(), task, task.samples)
    backbone.refuse = refuse
    found = FeatureCache(tmp_path / "halved").features(backbone, task, task.samples)
    assert torch.equal(found, expected)
    assert backbone.encoded == len(task.samples)
    fits = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        FeatureCache(tmp_path / "none").features(backbone, task, task.samples)


def test_batch_size_is_the_largest_power_of_two_that_fits() -> None:
    each = 1000 * torch.float32.itemsize
    for room, expected in ((0.5, 1), (1.5, 1), (7.9, 4), (8.1, 8), (10 * MAX_IMAGES, MAX_IMAGES)):
        assert fit_batch(lambda n: torch.zeros(n, 1000), room * each) == expected


def test_interrupted_encoding_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: torch.Tensor) -> None:
        if stopped.encoded == 2 * 2 * BATCH:  # of two views
            raise KeyboardInterrupt

    stopped = FakeBackbone()
    stopped.refuse = stop
    monkeypatch.setattr(encoding, "KEEP_SECONDS", 0.0)
    task = FakeTask(3 * BATCH + 7)
    told: list[tuple[int, int]] = []
    views = VIEWS[:2]
    expected = FeatureCache(tmp_path / "whole").features_of_views(
        FakeBackbone(), task, task.samples, views
    )
    cache = FeatureCache(tmp_path, lambda *progress: told.append(progress))
    with pytest.raises(KeyboardInterrupt):
        cache.features_of_views(stopped, task, task.samples, views)
    # The last part of one view is damaged: both views resume from the part before.
    last_parts = [one.path for one in list_entries(tmp_path) if one.path.stem == f"{BATCH:09}"]
    assert len(last_parts) == 2
    torn = last_parts[0]
    torn.write_bytes(torn.read_bytes()[:-1])
    after = FakeBackbone()
    found = cache.features_of_views(after, task, task.samples, views)
    assert after.encoded == 2 * (2 * BATCH + 7)
    assert told[-1] == (2 * len(task.samples), 2 * len(task.samples))
    assert all(map(torch.equal, found, expected))
    assert not list(tmp_path.rglob("*.parts"))


class Folder(FakeTask):
    """Its images are in files, which other processes can read."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(count)
        for sample in self.samples:
            super().image(sample).save(folder / sample.id, "png")
        self.source = ImageSource(folder, {"test": self.samples})


@pytest.mark.slow
def test_decoding_processes_keep_order_and_report_errors_and_deaths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.multiprocessing.get_context", lambda _: CONTEXT)
    monkeypatch.setattr(encoding, "MANY", 10)
    monkeypatch.setattr(encoding, "PIECE", 4)
    task = Folder(tmp_path, 25)
    backbone = FakeBackbone()
    views = tuple(VIEWS[:2])
    (tmp_path / task.samples[21].id).write_bytes(b"no image")
    decoder = encoding.Decoder(task.source, views, backbone.preprocess, 8, torch.float32)
    expected = torch.stack([decoder.decode(one) for one in task.samples[:20]], dim=1)

    def collect(samples: list[Sample]) -> torch.Tensor:
        seen.clear()
        for pieces in decoder.batches(samples, 10, 2):
            seen.extend(pieces)
        return torch.cat(seen, dim=1)

    seen: list[torch.Tensor] = []
    with pytest.raises(BrokenImages, match="image 21 cannot be decoded"):
        collect(task.samples)
    assert {tuple(piece.shape[:2]) for piece in seen} == {(2, 2)}
    assert torch.equal(torch.cat(seen, dim=1), expected)

    pieces = decoder.batches(task.samples[:20], 10, 2)
    first = next(pieces)
    for process in active_children():
        process.kill()
        process.join()
    with pytest.warns(CompatbenchWarning, match="decodes images died"):
        assert torch.equal(torch.cat([*first, *next(pieces)], dim=1), expected)
    assert not active_children()
