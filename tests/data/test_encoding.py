"""Encoding: images decoded once for all views, batches that fit, and runs that go on."""

from __future__ import annotations

import re
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from data.fakes import FakeBackbone, FakeTask
from open_clip.transform import PreprocessCfg, image_transform_v2

from compatbench.backbone import FEATURES, ImageInput
from compatbench.backbone.build import allow_tf32
from compatbench.backbone.device import MOST, fit_batch
from compatbench.data import encoding
from compatbench.data.cache_files import list_entries
from compatbench.data.cards import suite_cards
from compatbench.data.encoding import BATCH, Images
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.data.images.source import ImageSource, Sample
from compatbench.data.images.views import View
from compatbench.engine.costs import count_costs
from compatbench.engine.matrix import select_matrix
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchWarning
from compatbench.files.hashes import sha256_json
from compatbench.method.registry import builtin_methods

VIEWS = [View(), View(1), View(2), View(mirror=True)]


class CountedTask(FakeTask):
    decoded = 0

    def image(self, sample: Sample) -> Any:
        self.decoded += 1
        return super().image(sample)


@pytest.mark.parametrize("wanted", [FEATURES, ImageInput("hidden", 1)])
def test_an_image_is_decoded_once_for_all_views_with_the_same_bytes(
    tmp_path: Path, wanted: ImageInput
) -> None:
    count = 2 * BATCH + 3
    task, backbone = CountedTask(count), FakeBackbone()

    def see(cache: FeatureCache, views: list[View]) -> list[torch.Tensor]:
        asked = (backbone, task, task.samples)
        if wanted == FEATURES:
            return cache.features_of_views(*asked, views)
        return [torch.cat(list(one.batches())) for one in cache.tokens(*asked, wanted, views)]

    alone = FeatureCache(tmp_path / "alone")
    expected = [see(alone, [view])[0] for view in VIEWS]
    assert task.decoded == len(VIEWS) * count
    task.decoded, cache = 0, FeatureCache(tmp_path / "together")
    found = see(cache, [*VIEWS, VIEWS[1]])
    # What one image takes is not known of tokens, and found out with one view.
    assert task.decoded == count * (1 if wanted == FEATURES else 2)
    assert all(map(torch.equal, found, [*expected, expected[1]]))
    names = [{one.path.name for one in list_entries(tmp_path / at)} for at in ("alone", "together")]
    assert names[0] == names[1]


def test_batches_that_do_not_fit_are_halved(tmp_path: Path) -> None:
    class Small(FakeBackbone):
        def encode_images(
            self, images: torch.Tensor, wanted: ImageInput = FEATURES
        ) -> torch.Tensor:
            if len(images) > fits:
                raise torch.cuda.OutOfMemoryError
            return super().encode_images(images, wanted)

    task, fits = FakeTask(BATCH + 5), 9
    expected = FeatureCache(tmp_path / "whole").features(FakeBackbone(), task, task.samples)
    found = FeatureCache(tmp_path / "halved").features(backbone := Small(), task, task.samples)
    assert torch.equal(found, expected)
    assert backbone.encoded == len(task.samples)
    fits = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        FeatureCache(tmp_path / "none").features(backbone, task, task.samples)


def test_as_many_images_as_fit_are_a_power_of_two() -> None:
    each = 1000 * torch.float32.itemsize
    for room, expected in ((0.5, 1), (1.5, 1), (7.9, 4), (8.1, 8), (10 * MOST, MOST)):
        assert fit_batch(lambda n: torch.zeros(n, 1000), room * each) == expected


def test_a_run_that_was_stopped_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(FakeBackbone):
        def encode_images(
            self, images: torch.Tensor, wanted: ImageInput = FEATURES
        ) -> torch.Tensor:
            if self.encoded == 2 * 2 * BATCH:  # of two views
                raise KeyboardInterrupt
            return super().encode_images(images, wanted)

    monkeypatch.setattr(encoding, "KEEP_SECONDS", 0.0)
    task, told, views = FakeTask(3 * BATCH + 7), list[tuple[int, int]](), VIEWS[:2]
    expected = FeatureCache(tmp_path / "whole").features_of_views(
        FakeBackbone(), task, task.samples, views
    )
    cache = FeatureCache(tmp_path, lambda *progress: told.append(progress))
    with pytest.raises(KeyboardInterrupt):
        cache.features_of_views(Stopped(), task, task.samples, views)
    # The last part of one view is torn: both go on from the one before.
    torn = [one.path for one in list_entries(tmp_path) if one.path.stem == f"{BATCH:09}"]
    assert len(torn) == 2
    torn[0].write_bytes(torn[0].read_bytes()[:-1])
    found = cache.features_of_views(after := FakeBackbone(), task, task.samples, views)
    assert after.encoded == 2 * (2 * BATCH + 7)
    assert told[-1] == (2 * len(task.samples), 2 * len(task.samples))
    assert all(map(torch.equal, found, expected))
    assert not list(tmp_path.rglob("*.parts"))


def test_the_name_of_a_processors_features_is_as_ever_and_devices_have_their_own() -> None:
    backbone, task = FakeBackbone(), FakeTask()
    values: list[Any] = ["a" * 64, "fake", {"size": (8, 8)}, "torch.float32"]
    values += [task.fingerprint(task.samples), [0], ["features", 0], ENGINE_VERSION]

    def key() -> str:
        return Images(backbone, task, task.samples, View()).key

    found = [key()]
    assert found == [sha256_json(values)]
    for device, dtype in (("cuda", torch.float32), ("cuda", torch.float16), ("mps", torch.float32)):
        backbone.device, backbone.dtype = torch.device(device), dtype
        found.append(key())
    backbone.device, backbone.dtype = torch.device("cuda:1"), torch.float32
    assert key() == found[1]
    allow_tf32(True)
    assert len({*found, key()}) == 5
    allow_tf32(False)
    assert key() == found[1]


class Folder(FakeTask):
    """Images in files, which processes of their own can read."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(count)
        for sample in self.samples:
            super().image(sample).save(folder / sample.id, "png")
        self.source = ImageSource(folder, {"test": self.samples})


def _own_bytes(process: Any) -> int:
    """What a process holds of its own and in shared memory, without the code of libraries."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * sum(int(kb) for kb in re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="tells no memory")
def test_decoders_take_the_memory_that_plan_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "MANY", 10)
    task, views = Folder(tmp_path, 200), tuple(View(1 + number) for number in range(2))
    preprocess: Any = image_transform_v2(PreprocessCfg(size=(side := 224)), is_train=False)
    decoder = encoding.Decoder(task.source, views, preprocess, side, torch.float32)
    most = 0
    for _ in decoder.batches(task.samples, 64, 2):
        time.sleep(0.1)  # so that they are ahead
        most = max(most, sum(map(_own_bytes, active_children())))
    matrix = select_matrix(suite_cards.read("paper"), builtin_methods(), ["zeroshot"], ["dtd"])
    counted = 2 * count_costs(matrix).decoder_bytes
    assert counted / 1.5 < most < 1.5 * counted


@pytest.mark.slow
def test_processes_decode_in_order_and_an_error_among_them_or_their_death_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "MANY", 10)
    monkeypatch.setattr(encoding, "PIECE", 4)
    task, backbone, views = Folder(tmp_path, 25), FakeBackbone(), tuple(VIEWS[:2])
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
    with pytest.warns(CompatbenchWarning, match="decodes images has died"):
        assert torch.equal(torch.cat([*first, *next(pieces)], dim=1), expected)
    assert not active_children()
