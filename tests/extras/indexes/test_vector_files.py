"""Indexes on disk: what is streamed is the whole, and what is no index is refused in a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from compatbench.errors import CompatbenchError
from compatbench.extras.indexes import raw_vectors
from compatbench.extras.indexes.index_maps import FeatureMap
from compatbench.extras.indexes.index_port import stream_index
from compatbench.extras.indexes.vector_files import is_vector_file, open_vectors
from compatbench.files.atomic import open_atomic

# What Faiss 1.15.1 writes for three vectors of width 2: flat ones by inner product and by
# distance, and with the ids 7, 8, 9 around one by inner product and one of another metric.
VECTORS = np.arange(6, dtype="<f4").reshape(3, 2)
HEAD = "0200000003000000000000000000100000000000000010000000000001"
NUMBERS = "0600000000000000000000000000803f0000004000004040000080400000a040"
IDS = "0300000000000000070000000000000008000000000000000900000000000000"
FAISS = {
    "inner product": f"49784649{HEAD}00000000{NUMBERS}",
    "distance": f"49784632{HEAD}01000000{NUMBERS}",
    "ids": f"49784d70{HEAD}0000000049784649{HEAD}00000000{NUMBERS}{IDS}",
    "ids, L1": f"49784d32{HEAD}02000000000000004978466c{HEAD}0200000000000000{NUMBERS}{IDS}",
}


def rewritten(path: Path, out: Path, columns: list[int]) -> Path:
    """The index with these columns of its vectors, and the first halved."""
    found = open_vectors(path)
    firsts: list[int] = []

    def change(block: np.ndarray, first: int) -> np.ndarray:
        firsts.append(first)
        return halve(block[:, columns])

    with open_atomic(out) as file:
        found.rewrite(file, len(columns), change)
    assert sorted(firsts) == list(range(0, found.rows, found.per_block))
    return out


def halve(vectors: np.ndarray) -> np.ndarray:
    return np.concatenate([vectors[:, :1] / 2, vectors[:, 1:]], axis=1)


def write_parquet(path: Path, vectors: np.ndarray, kind: str, rows_of_group: int) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    inner = pa.field("number", pa.from_numpy_dtype(vectors.dtype))
    size = vectors.shape[1]
    types = {"list": pa.list_(inner), "large": pa.large_list(inner), "fixed": pa.list_(inner, size)}
    table = pa.table(
        {
            "id": pa.array([f"photo {i}" for i in range(len(vectors))]),
            "vector": pa.array(list(vectors), types[kind]),
            "taken": pa.array([None, *range(1, len(vectors))], pa.int32()),
        }
    ).replace_schema_metadata({"owner": "me", "huggingface": "{}"})
    pq.write_table(table, path, row_group_size=rows_of_group, compression="zstd")


@settings(max_examples=25)
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 9),
    new=st.integers(1, 9),
    dtype=st.sampled_from(["float16", "float32", "float64", ">f4"]),
    block=st.integers(1, 400),
    kind=st.sampled_from(["npy", "list", "large", "fixed"]),
)
def test_what_is_streamed_is_what_the_whole_gives(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    width: int,
    new: int,
    dtype: str,
    block: int,
    kind: str,
) -> None:
    folder, generator = tmp_path_factory.mktemp("streamed"), np.random.default_rng(rows * width)
    vectors = generator.standard_normal((rows, width)).astype(dtype)
    columns = generator.integers(0, width, new).tolist()
    wanted = halve(vectors[:, columns]).astype(dtype)
    path, out = folder / f"a.{'npy' if kind == 'npy' else 'parquet'}", folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_vectors, "BLOCK", block)
        if kind == "npy":
            np.save(path, vectors)
            found = np.load(rewritten(path, out, columns))
            assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
            assert np.array_equal(found, wanted)
            return
        import pyarrow.parquet as pq

        vectors, wanted = (one.astype(one.dtype.name) for one in (vectors, wanted))
        write_parquet(path, vectors, kind, rows_of_group=1 + rows // 3)
        old, table = pq.read_table(path), pq.read_table(rewritten(path, out, columns))
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    assert np.array_equal(flat.reshape(rows, new), wanted)
    assert flat.dtype == wanted.dtype
    assert table.drop(["vector"]).equals(old.drop(["vector"]))
    about = {b"owner": b"me"} | ({b"huggingface": b"{}"} if new == width else {})
    assert table.schema.metadata == about
    if width == new:
        assert table.schema.equals(old.schema)


@pytest.mark.parametrize("kind", FAISS)
def test_a_flat_index_of_faiss_keeps_its_kind_and_ids(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "photos.index"
    path.write_bytes(bytes.fromhex(FAISS[kind]))
    assert is_vector_file(path)
    same = rewritten(path, tmp_path / "same", [0, 1]).read_bytes()
    numbers = halve(VECTORS).tobytes().hex()
    assert same.hex() == FAISS[kind].replace(NUMBERS, NUMBERS[:16] + numbers)
    wider = rewritten(path, tmp_path / "wider", [1, 0, 1])
    found = open_vectors(wider)
    assert (found.rows, found.width) == (3, 3)
    numbers = halve(VECTORS[:, [1, 0, 1]]).tobytes()
    text = FAISS[kind].replace("02000000" + HEAD[8:], "03000000" + HEAD[8:])
    assert wider.read_bytes().hex() == text.replace(NUMBERS, f"{'09':0<16}{numbers.hex()}")


IDS_INDEX = bytes.fromhex(FAISS["ids"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones(3), r"of shape \(3,\)"),
        (np.ones((2, 3), int), "holds int64"),
        (np.ones((2, 3)).T, "stored by column"),
        (np.ones((0, 3)), "holds no vectors"),
        (b"\x93NUMPY\x01\x00v\x00{nonsense", "is no .npy file"),
        (b"hello, world", "no .npy, parquet, safetensors or flat Faiss index"),
        (b"IHNf", "flat Faiss index .it begins with b'IHNf'"),
        (IDS_INDEX[:60], "truncated inside its header"),
        (IDS_INDEX[:90], "is truncated: 3 vectors of width 2"),
        (bytes.fromhex(FAISS["distance"].replace("0600", "0700")), "7 numbers for 3 × 2"),
        (b"PAR1 and no more", "cannot read the index"),
        (b"", "is empty"),
        (None, "cannot read the index"),
    ],
)
def test_what_is_no_index_is_refused(
    content: np.ndarray | bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "index.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(CompatbenchError, match=message) as found:
        open_vectors(path)
    assert "\n" not in str(found.value)


def test_lists_that_are_no_vectors_are_named_by_their_row(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = {
        "short": ([[1.0, 2.0], [3.0]], "a vector of width 1 in row 1, and width 2"),
        "empty": ([None, [1.0, 2.0]], "nothing in row 0"),
        "null": ([[1.0, 2.0], None], "nothing in row 1"),
        "gap": ([[1.0, 2.0], [3.0, None]], "with gaps in row 1"),
    }
    for name, (values, message) in rows.items():
        pq.write_table(pa.table({name: pa.array(values, pa.list_(pa.float32()))}), tmp_path / name)
        with pytest.raises(CompatbenchError, match=message):
            rewritten(tmp_path / name, tmp_path / "out", [0, 1])
        assert not (tmp_path / "out").exists()
    both = pa.table({name: pa.array([[1.0]], pa.list_(pa.float32())) for name in "ab"})
    pq.write_table(both, tmp_path / "two")
    for column, message in ((None, "2 columns of lists .*one of a, b"), ("c", "no column 'c'")):
        with pytest.raises(CompatbenchError, match=message):
            open_vectors(tmp_path / "two", column)
    assert open_vectors(tmp_path / "two", "b").width == 1


def test_threads_change_no_byte_and_name_the_first_row_that_is_none(tmp_path: Path) -> None:
    vectors, turn = np.random.default_rng(0).standard_normal((2, 4000, 768), np.float32)
    np.save(tmp_path / "index.npy", vectors)
    vectors[[1500, 3900]] = np.nan
    np.save(tmp_path / "holes.npy", vectors)
    for count in (1, 2):
        with threadpool_limits(count, user_api="blas"):
            index, holes = (open_vectors(tmp_path / f"{name}.npy") for name in ("index", "holes"))
            stream_index(index, FeatureMap(turn[:768]), tmp_path / str(count), {})
            with pytest.raises(CompatbenchError, match="the vector in row 1,500 has a NaN"):
                stream_index(holes, FeatureMap(turn[:768]), tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
