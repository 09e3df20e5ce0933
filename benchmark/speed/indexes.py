"""What it takes to port, search and measure an index, beside plain matrix products.

python benchmark/speed/indexes.py                      # half an hour, 6 GB of disk; indexes.json
python benchmark/speed/indexes.py --most 10000000      # with ten million vectors, and 20 GB of disk

With faiss-cpu, if that is installed, exact search is beside its own, in memory and by blocks.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import typer
from measured_process import measure_process
from threadpoolctl import threadpool_limits

from compatbench.engine.cell import provenance
from compatbench.extras.indexes.index_maps import FeatureMap
from compatbench.extras.indexes.index_port import stream_index
from compatbench.extras.indexes.index_ways import Index, to_unit
from compatbench.extras.indexes.rankings import Ranking, merge
from compatbench.extras.indexes.vector_files import VectorFile, open_vectors

HERE = Path(__file__).parent
ROWS, WIDTH, QUERIES, ROUNDS = 1_000_000, 768, 1000, 3
OF_FAISS = 1 << 16  # rows in a block that Faiss searches
SIZES = (1_000, 100_000, 1_000_000, 10_000_000)
Work = Callable[[], object]


def main(most: int = 1_000_000) -> None:
    with TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "index.npy")
        figures: dict[str, Any] = {"processor": provenance()["processor"]}
        figures |= {"rows": ROWS, "width": WIDTH, "queries": QUERIES, "rounds": ROUNDS}
        figures["works"] = in_turn(make_works(path))
        figures |= {"measured": measure(path), "memory": []}
        for rows in (size for size in SIZES if size <= most):
            # A file of zeros takes no room; what is written of it does.
            with path.open("wb") as file:
                about = {"descr": "<f4", "fortran_order": False, "shape": (rows, WIDTH)}
                np.lib.format.write_array_header_1_0(file, about)
                file.truncate(file.tell() + rows * WIDTH * 4)
            used = run(f"import indexes, pathlib; indexes.port(pathlib.Path('{path.resolve()}'))")
            figures["memory"].append({"rows": rows, **used})
    (HERE / "indexes.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


def make_works(path: Path) -> dict[str, Work]:
    """What is done with an index that is written to ``path``, and is in memory for products."""
    vectors = np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32)
    vectors /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]  # with no copy
    np.save(path, vectors)
    asked, square = vectors[:: ROWS // QUERIES], np.ascontiguousarray(vectors[:WIDTH])
    file = open_vectors(path)
    index = Index(file, file, asked, asked, np.ones(ROWS, bool))

    def plain(matrix: np.ndarray) -> None:
        for first in range(0, ROWS, 4096):
            np.matmul(vectors[first : first + 4096], matrix)

    works: dict[str, Work] = {
        "map: product alone": lambda: plain(square),
        "map: `module port`, file to file": lambda: port(path, square),
        "search: product alone": lambda: plain(asked.T),
        "search: `study index`, of a file": lambda: index.search(asked, file),
    }
    with suppress(ImportError):
        faiss: Any = import_module("faiss")

        def search(items: np.ndarray) -> Any:
            return faiss.knn(asked, items, index.depth, faiss.METRIC_INNER_PRODUCT)

        works["search: Faiss, in memory"] = lambda: search(vectors)
        works["search: Faiss, of a file"] = lambda: in_blocks(search, file, index.depth)
    return works


def in_blocks(search: Callable[[np.ndarray], Any], file: VectorFile, depth: int) -> Ranking:
    """A search of blocks that are read and scaled as ours."""
    found = [search(to_unit(block)) for block in file.blocks(OF_FAISS)]
    parts = [Ranking(n * OF_FAISS + rows, scores) for n, (scores, rows) in enumerate(found)]
    return merge(parts, depth)


def in_turn(works: dict[str, Work]) -> dict[str, dict[str, Any]]:
    """By threads the median seconds by the clock and of CPU of every work, and its speed in percent
    of the product alone in the same round: the median, the least and the most.
    """
    figures: dict[str, dict[str, Any]] = {name: {} for name in works}
    for threads in (1, 2):
        with threadpool_limits(threads):
            rounds = np.array([[take(work) for work in works.values()] for _ in range(ROUNDS)])
        for name, seconds in zip(works, rounds.transpose(1, 2, 0), strict=True):
            alone = rounds[:, [*works].index(f"{name.split(':')[0]}: product alone")].T
            for kind, of, product in zip(("clock", "cpu"), seconds, alone, strict=True):
                shares = [round(float(pick(100 * product / of))) for pick in (np.median, min, max)]
                about = {"seconds": round(float(np.median(of)), 1), "share": shares}
                figures[name][f"{kind}, {threads}"] = about
    return figures


def take(work: Work) -> tuple[float, float]:
    """The seconds that it takes, by the clock and of CPU."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def port(path: Path, turn: np.ndarray | None = None) -> None:
    """Reads, maps and writes an index, as ``module port`` does when it has its map."""
    out = path.with_name("ported.npy")
    stream_index(open_vectors(path), FeatureMap(np.eye(WIDTH) if turn is None else turn), out, {})
    out.unlink()


def measure(path: Path) -> dict[str, int]:
    """``study index`` with a fifth of the queries; one file stands for both models'."""
    rows = np.load(path, mmap_mode="r")[:: 5 * ROWS // QUERIES]
    asked = rows + np.random.default_rng(1).standard_normal(rows.shape, np.float32) / 100
    np.save(queries := path.with_name("queries.npy"), asked)
    old, of_old = (f"'{each.resolve()}'" for each in (path, queries))
    options = f"queries=({of_old}, {of_old}), pairs=[1024], seeds=[1]"
    statement = f"import compatbench as cb; cb.measure_index({old}, {old}, {options})"
    return {"queries": len(asked), **run(statement)}


def run(statement: str) -> dict[str, int]:
    """CPU seconds and peak MiB of a process of its own, with one thread."""
    limits = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    seconds, peak = measure_process("-c", statement, cwd=HERE, env=os.environ | limits)
    return {"cpu": round(seconds), "peak_mib": int(peak)}


if __name__ == "__main__":
    typer.run(main)
