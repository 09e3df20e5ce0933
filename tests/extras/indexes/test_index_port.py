"""An index of one mini model in the space of another: the file, its facts, and what is refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import invoke, output_of
from PIL import Image

import compatbench as cb
from compatbench.backbone import load_backbone, words
from compatbench.backbone.words import encode_words, load_words
from compatbench.errors import CompatbenchError
from compatbench.extras.indexes import index_port, raw_vectors
from compatbench.extras.indexes.index_maps import fit_map

SOURCE, TARGET = "mini-clip", "mini-eva-clip-anew"
WIDTH = 128


@pytest.fixture(autouse=True, scope="module")
def _few_words():
    """Every twentieth word."""
    few = load_words()[::20]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "load_words", lambda: few)
        yield


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(raw_vectors, "BLOCK", 4 * WIDTH * 16)  # of 16 vectors
    vectors = np.random.default_rng(0).standard_normal((100, WIDTH)).astype(np.float16)
    np.save(path := tmp_path / "photos.npy", vectors)
    return path


def test_an_index_is_ported_by_words_as_the_whole_matrix_would_be(index: Path) -> None:
    found = cb.port_index("photos.npy", SOURCE, TARGET)
    assert found.path == Path(f"photos-for-{TARGET}.npy")
    old, new = np.load(index), np.load(found.path)
    pair = [encode_words(load_backbone(name), load_words()[::20]) for name in (SOURCE, TARGET)]
    turn = fit_map("words", (pair[0].numpy(), pair[1].numpy())).matrix
    assert new.dtype == np.float16
    assert np.abs(new - old.astype(np.float64) @ turn).max() <= 2e-3 * np.abs(new).max()
    facts = json.loads(Path(f"{found.path}.json").read_text())
    assert facts == json.loads(json.dumps(found.facts))
    assert (facts["source"], facts["target"], facts["way"]) == (SOURCE, TARGET, "words")
    assert (facts["rows"], facts["width"], facts["new_width"]) == (100, WIDTH, WIDTH)
    assert 0.5 < facts["cosine"] < 1
    assert facts["residual"] > 0
    # What to expect is what the project has measured of this upgrade.
    expected = facts["expected"]
    assert expected["suite"] == "mini"
    assert expected["ported"]["texts"]["recall@10"] <= expected["re-encoded"]["texts"]["recall@10"]
    with pytest.raises(CompatbenchError, match="exists; give another --out"):
        cb.port_index("photos.npy", SOURCE, TARGET)


def test_images_and_their_vectors_give_one_map(index: Path, tmp_path: Path) -> None:
    folder, generator = tmp_path / "images" / "inner", np.random.default_rng(1)
    folder.mkdir(parents=True)
    for i in range(12):
        pixels = generator.integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{i:02}.png")
    port = f"module port photos.npy --source {SOURCE} --target {TARGET} --transfer images"
    said = output_of(f"{port} --images images --out by-folder.npy")
    assert "by images, 12 images" in said
    assert "variance left" in said
    files = sorted(folder.glob("*.png"))
    for name in (SOURCE, TARGET):
        model = load_backbone(name)
        views = [model.preprocess(Image.open(one).convert("RGB")) for one in files]
        np.save(f"{name}.npy", model.encode_images(torch.stack(views)).numpy())  # type: ignore[arg-type]
    output_of(f"{port} --pairs {SOURCE}.npy {TARGET}.npy --out by-pairs.npy")
    a, b = (np.load(f"by-{one}.npy").astype(np.float32) for one in ("folder", "pairs"))
    assert np.abs(a - b).max() <= 0.02


def test_an_index_of_the_same_width_may_stay_as_it_is(index: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    port = f"module port photos.npy --source {SOURCE} --target mini-eva-clip --transfer copied"
    assert "stays as it is" in output_of(port)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": "mini-eva-clop"}, "'mini-eva-clop'.*did you mean"),
        ({"source": "mini-klip"}, "'mini-klip'"),
        ({"target": SOURCE}, "there is nothing to port"),
        ({"target": "hf:dino"}, "models of type 'dinov2' are not supported"),  # no text tower
        ({"way": "magic"}, "there is no way 'magic'; choose from copied, words"),
        ({"way": "images"}, "'images' needs images: give --images FOLDER"),
        ({"way": "words", "images": "."}, "'words' takes no images"),
        ({"index": "narrow.npy"}, "width 64, and those of 'mini-clip' have 128"),
        ({"index": "narrow.npy", "way": "copied"}, "width 64, and those of 'mini-clip' have 128"),
        ({"index": "nan.npy"}, "the vector in row 57 has a NaN"),
        ({"index": "none.npy"}, "cannot read the index none.npy"),
        ({"images": "nowhere", "way": "images"}, "there is no folder nowhere"),
        ({"images": ".", "way": "images"}, "holds no image"),
        ({"images": (np.ones((9, 2)), np.ones((8, 2))), "way": "images"}, "pairs of shapes"),
        ({"images": ("a.npy", "b.npy")}, "cannot read the index a.npy: No such file"),
        ({"images": (np.full((9, WIDTH), np.inf),) * 2, "way": "images"}, "in row 0 has a NaN"),
        ({"images": (np.zeros((9, WIDTH)),) * 2, "way": "images"}, "in row 0 is all zeros"),
        ({"images": (np.ones((9, 2)),) * 2, "way": "images"}, "width 2, .* old model have 128"),
        ({"images": (np.ones((9, WIDTH)), np.ones((9, 2)))}, "width 2, .* new model have 128"),
        ({"images": (np.ones((7, WIDTH)),) * 2}, "7 images are too few for 'ridge'"),
        ({"index": "."}, "is a folder"),
        ({"column": "id"}, "--column is for parquet files"),
        ({"out": "o.parquet"}, "let its name end in .npy"),
        ({"out": "o" * 300}, "File name too long"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    given: dict, message: str, index: Path, tmp_path: Path
) -> None:
    vectors = np.load(index).astype(np.float32)
    np.save(tmp_path / "narrow.npy", vectors[:, :64])
    vectors[57, 3] = np.nan
    np.save(tmp_path / "nan.npy", vectors)
    (tmp_path / "dino").mkdir()
    (tmp_path / "dino" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "dino" / "config.json").write_text('{"model_type": "dinov2"}')
    before = sorted(tmp_path.iterdir())
    asked = {"index": "photos.npy", "source": SOURCE, "target": TARGET, **given}
    with pytest.raises(CompatbenchError, match=message) as found:
        cb.port_index(**asked)
    assert "\n" not in str(found.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_port_that_is_ended_leaves_nothing(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(index_port, "write_atomic", lambda *_: signal.raise_signal(signal.SIGTERM))
    result = invoke("module port", index, "--source", SOURCE, "--target", TARGET)
    assert (result.exit_code, "no index was written" in result.output) == (130, True)
    assert sorted(tmp_path.iterdir()) == before
