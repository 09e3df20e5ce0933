"""Maps and ported files next to numpy and scipy on whole matrices."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import invoke, output_of
from extras.indexes.worlds import World, unit
from safetensors.numpy import load_file
from scipy.linalg import orthogonal_procrustes
from threadpoolctl import threadpool_limits

import compatbench as cb
from compatbench.errors import CompatbenchError
from compatbench.extras.indexes import port_index as porting
from compatbench.extras.indexes import vectors
from compatbench.extras.indexes.index_maps import fit_map, orthogonal_matrix, ridge_matrix
from compatbench.extras.indexes.relevance import read_column

WORLD = World()
ROWS = len(WORLD.old)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the vectors of a world and a map, where files are read in many blocks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vectors, "BLOCK_BYTES", 1000)
    np.save("old.npy", WORLD.old)
    np.save("new.npy", WORLD.new)
    Path("broken.npy").write_bytes(b"\x93NUMPY\x01\x00\x02\x00(\n")
    cb.fit_index_map(("old.npy", "new.npy"), out="map.safetensors")
    return tmp_path


def test_orthogonal_and_ridge_matrices_equal_scipy_and_least_squares() -> None:
    generator = np.random.default_rng(0)
    source, same, wide = (generator.standard_normal((50, size)) for size in (6, 6, 9))
    expected, _ = orthogonal_procrustes(source, same)
    assert orthogonal_matrix(source, same) == pytest.approx(expected)
    for target in (wide, source[:, :4]):
        matrix = orthogonal_matrix(source, target)
        smaller = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
        assert smaller == pytest.approx(np.eye(min(matrix.shape)))
    # Ridge regression is least squares with rows that ask for the prior.
    prior = generator.standard_normal((6, 9))
    weight = np.sqrt(50 * 0.3)
    expected = np.linalg.lstsq(
        np.vstack([source, weight * np.eye(6)]), np.vstack([wide, weight * prior]), rcond=None
    )[0]
    assert ridge_matrix(source, wide, prior, 0.3) == pytest.approx(expected)


def test_a_rotation_is_found_and_the_better_kind_is_chosen() -> None:
    generator = np.random.default_rng(3)
    old = generator.standard_normal((300, 6))
    turn = np.linalg.qr(generator.standard_normal((6, 6)))[0]
    found = cb.fit_index_map((old, old @ turn), kind="orthogonal")
    assert found(old) == pytest.approx(old @ turn, abs=1e-2)
    assert found.about["cosine"] > 0.999
    stretched = old @ generator.standard_normal((6, 6))
    assert cb.fit_index_map((old, stretched)).about["kind"] == "ridge"
    cosines = [
        cb.fit_index_map((old, stretched), kind=kind).about["cosine"]
        for kind in ("orthogonal", "ridge")
    ]
    assert cosines[1] > cosines[0]


def test_held_out_pairs_judge_a_map() -> None:
    noise = np.random.default_rng(4).standard_normal((64, 30)).astype(np.float32)
    old = unit(noise[:, :15])
    new = unit(noise[:, 15:])
    fitted = fit_map(old, new)
    assert fitted.about["cosine"] < 0.2
    assert (fitted(old) * new).sum(axis=1).mean() > fitted.about["cosine"] + 0.2


def test_four_lines_of_numpy_apply_the_map(folder: Path) -> None:
    """The lines are those of the documentation."""
    page = (Path(__file__).parents[3] / "docs" / "indexes.md").read_text(encoding="utf-8")
    code = re.findall(r"```py\n(.*?)```", page, re.DOTALL)[0]
    names: dict[str, Any] = {"np": np, "load_file": load_file, "vectors": WORLD.old}
    exec(code, names)
    fitted = cb.load_index_map("map.safetensors")
    assert names["mapped"] == pytest.approx(fitted(WORLD.old), abs=1e-5)
    lengths = np.linalg.norm(WORLD.old, axis=1)
    assert np.linalg.norm(names["mapped"], axis=1) == pytest.approx(lengths, rel=1e-5)
    near = (unit(names["mapped"]) * unit(WORLD.new)).sum(axis=1).mean()
    assert near > 0.6
    zero = fitted(np.zeros((1, 8)))
    assert (zero == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("suffix", ["npy", "parquet", "faiss"])
def test_ported_blocks_equal_the_whole(folder: Path, dtype: str, suffix: str) -> None:
    if suffix == "faiss":
        pytest.importorskip("faiss")
    old = WORLD.old.astype(dtype)
    ported = cb.port_index(old, "map.safetensors", out=f"out.{suffix}")
    kept = "float32" if suffix == "faiss" else dtype
    assert (ported.rows, ported.width, ported.dtype) == (ROWS, 12, kept)
    expected = cb.load_index_map("map.safetensors")(old).astype(dtype)
    opened = vectors.open_vectors(f"out.{suffix}", "the index")
    assert opened.dtype == np.dtype(kept)
    written = np.concatenate([block for _, block in opened.blocks()])
    assert written == pytest.approx(expected, rel=1e-3 if dtype == "float16" else 1e-5, abs=1e-5)


def test_bytes_do_not_depend_on_threads(folder: Path) -> None:
    contents = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            cb.port_index("old.npy", "map.safetensors", out=f"{threads}.npy")
        contents.append(Path(f"{threads}.npy").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 8)])
def test_parquet_keeps_other_columns(folder: Path, kind: pa.DataType) -> None:
    table = pa.table(
        {
            "id": range(ROWS),
            "vector": pa.array([*WORLD.old], kind),
            "name": [f"photo {row}" for row in range(ROWS)],
            "other": pa.array([*WORLD.old], kind),
        }
    )
    pq.write_table(table, "index.parquet", row_group_size=150)
    with pytest.raises(CompatbenchError, match=r"several columns .* --column: vector, other"):
        cb.port_index("index.parquet", "map.safetensors", out="out.parquet")
    shown = output_of(
        "index port", "index.parquet", "--map", "map.safetensors", "--out", "out.parquet",
        "--column", "vector",
    )  # fmt: skip
    assert "wrote out.parquet: 400 vectors of width 12, float32" in shown
    written = pq.read_table("out.parquet")
    assert written.column_names == table.column_names
    assert written.drop_columns("vector") == table.drop_columns("vector")
    expected = cb.load_index_map("map.safetensors")(WORLD.old)
    assert np.stack(written["vector"].to_numpy()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("with_ids", [True, False])
def test_faiss_keeps_ids_and_metric(folder: Path, with_ids: bool) -> None:
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatL2(8)
    ids = np.arange(ROWS) * 3 + 5
    if with_ids:
        index = faiss.IndexIDMap(index)
        index.add_with_ids(WORLD.old, ids)
    else:
        index.add(WORLD.old)
    faiss.write_index(index, "index.faiss")
    cb.port_index("index.faiss", "map.safetensors", out="out.faiss")
    ported = faiss.read_index("out.faiss")
    assert (ported.metric_type, ported.ntotal, ported.d) == (faiss.METRIC_L2, ROWS, 12)
    expected = cb.load_index_map("map.safetensors")(WORLD.old)
    distances, found = ported.search(expected[:9], 1)
    assert distances == pytest.approx(0, abs=1e-3)
    assert (found[:, 0] == (ids[:9] if with_ids else np.arange(9))).all()
    quantised = faiss.index_factory(8, "SQ8")
    quantised.train(WORLD.old)
    faiss.write_index(quantised, "quantised.faiss")
    with pytest.raises(CompatbenchError, match="does not keep its vectors"):
        cb.port_index("quantised.faiss", "map.safetensors", out="never.faiss")


@pytest.mark.slow
def test_words_map_an_index_of_clip(folder: Path) -> None:
    index = np.random.default_rng(0).standard_normal((40, 128)).astype(np.float32)
    np.save("clip.npy", index)
    shown = output_of(
        "index port", "clip.npy", "--out", "ported.npy",
        "--source", "mini-clip", "--target", "mini-eva-clip",
    )  # fmt: skip
    assert "words map from width 128 to 128" in shown
    words = porting.map_by_words("mini-clip", "mini-eva-clip", "cpu")
    assert words.matrix @ words.matrix.T == pytest.approx(np.eye(128), abs=1e-5)
    assert np.load("ported.npy") == pytest.approx(index @ words.matrix, abs=1e-3)


def port(index: Any = "old.npy", index_map: Any = "map.safetensors", **more: Any) -> Any:
    return cb.port_index(index, index_map, **{"out": "never.npy"} | more)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: port(WORLD.new), "width 12, but map.safetensors is for width 8"),
        (lambda: port(out="old.npy"), "old.npy exists"),
        (lambda: port(out="never.txt"), "end the name in .npy, .parquet, .faiss"),
        (lambda: port("none.npy"), "no such file"),
        (lambda: port("broken.npy"), "cannot read broken.npy"),
        (lambda: port("map.safetensors"), "read from .npy, .parquet or .faiss files"),
        (lambda: port(index_map="old.npy"), "cannot read the map old.npy"),
        (lambda: port(index_map=None), "give either --map, or --source and --target"),
        (lambda: port(source="a", target="b"), "give either --map"),
        (lambda: port(column="a"), "is for parquet files"),
        (lambda: port(np.full((3, 8), np.nan)), "row 0 has a NaN"),
        (lambda: cb.fit_index_map((WORLD.old[:5], WORLD.new[:5])), "5 pairs are too few"),
        (lambda: cb.fit_index_map((WORLD.old[:1], WORLD.new[:1])), "1 pair is too few"),
        (lambda: cb.fit_index_map((WORLD.old, WORLD.new[::-1])), "same items in the same order"),
        (lambda: cb.fit_index_map(("old.npy", "new.npy"), out="new.npy"), "new.npy exists"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(
    folder: Path, action: Callable[[], object], message: str
) -> None:
    with pytest.raises(CompatbenchError, match=message) as error:
        action()
    assert "\n" not in str(error.value)
    assert not [path for path in folder.iterdir() if "never" in path.name]


def test_damaged_files_are_one_line(folder: Path) -> None:
    Path("cut.npy").write_bytes(Path("old.npy").read_bytes()[:-64])
    pq.write_table(pa.table({"v": [[1.0, 2.0], [1.0]]}), "ragged.parquet")
    pq.write_table(pa.table({"v": [1.0]}), "flat.parquet")
    Path("none.parquet").write_bytes(b"PAR1")
    for name, message in {
        "cut.npy": "cannot read cut.npy",
        "ragged.parquet": "not every row of column 'v' has a vector of width 2",
        "flat.parquet": "no column of lists .* its columns are v",
        "none.parquet": "cannot read none.parquet",
    }.items():
        with pytest.raises(CompatbenchError, match=message):
            cb.measure_index(name, name)


@pytest.mark.parametrize(
    "header", ["(", "{'descr': '<U4', 'fortran_order': False, 'shape': (10**9,)}"]
)
def test_a_damaged_list_of_ids_is_one_line(tmp_path: Path, header: str) -> None:
    """A header can declare more names than the file has bytes."""
    start = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "ids.npy").write_bytes(start)
    with pytest.raises(CompatbenchError, match=r"cannot read .*ids\.npy"):
        read_column(tmp_path / "ids.npy", 3, "ids", ["id"])


def test_commands_measure_map_and_port(folder: Path) -> None:
    assert "no relevance is known" in output_of("index measure", "old.npy", "new.npy")
    again = output_of("index map", "--pairs", "old.npy", "new.npy", "--out", "again.safetensors")
    assert again.startswith("wrote again.safetensors: ")
    assert Path("again.safetensors").read_bytes() == Path("map.safetensors").read_bytes()
    assert invoke("index map", "--pairs", "old.npy", "new.npy").exit_code == 2
