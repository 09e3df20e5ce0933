"""What it takes to port, search and measure an index, beside plain matrix products.

python benchmark/speed/indexes.py                      # half an hour, 6 GB of disk; indexes.json
python benchmark/speed/indexes.py --most 10000000      # with ten million vectors, and 20 GB of disk

With faiss-cpu, if that is installed, exact search is beside its own, in memory and by blocks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import typer
from threadpoolctl import threadpool_limits
from workload import matmul_rate, peak_gib

from compatbench.engine.cell import provenance
from compatbench.extras.indexes.index_maps import FeatureMap
from compatbench.extras.indexes.index_port import stream_index
from compatbench.extras.indexes.index_ways import Index, to_unit
from compatbench.extras.indexes.rankings import Ranking, merge
from compatbench.extras.indexes.vector_files import VectorFile, open_vectors

HERE = Path(__file__).parent
WIDTH, ROWS, ROUNDS = 512, 100_000, 3
SIZES = (1_000, 100_000, 1_000_000, 10_000_000)


LARGE, LARGE_WIDTH, QUERIES, CORES = 1_000_000, 768, 1000, 2
LARGE_ROUNDS = 5
OF_FAISS = 1 << 16  # rows in a block that Faiss searches


def main(most: int = 1_000_000, child: Path | None = None) -> None:
    threadpool_limits(1)
    if child is not None:
        print(json.dumps(port(child)))
        return
    with TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "index.npy")
        large = on_two_cores(path)
        vectors = np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32)
        np.save(path, vectors)
        # In turn, so that what else runs on the machine is the same for both.
        plain, ported = [], []
        for _ in range(ROUNDS):
            plain.append(multiply(vectors))
            ported.append(port(path)["cpu_seconds"])
        figures: dict[str, Any] = {
            "processor": provenance()["processor"],
            "matmul_gflops": round(matmul_rate() / 1e9, 1),
            "rows": ROWS,
            "width": WIDTH,
            "plain": ROWS / min(plain),
            "ported": ROWS / min(ported),
            "ratio": min(ported) / min(plain),
            "memory": [],
            "large": large,
        }
        for rows in (size for size in SIZES if size <= most):
            # A file of zeros takes no room; what is written of it does.
            with path.open("wb") as file:
                about = {"descr": "<f4", "fortran_order": False, "shape": (rows, WIDTH)}
                np.lib.format.write_array_header_1_0(file, about)
                file.truncate(file.tell() + rows * WIDTH * 4)
            command = [sys.executable, __file__, "--child", str(path)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures["memory"].append({"rows": rows, **json.loads(done.stdout)})
    (HERE / "indexes.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


def on_two_cores(path: Path) -> dict[str, Any]:
    """Seconds by the clock and of CPU to map and to search a large index, every round, in turn."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((LARGE, LARGE_WIDTH), np.float32)
    vectors /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]  # with no copy
    np.save(path, vectors)
    asked = vectors[:: LARGE // QUERIES]
    square = np.ascontiguousarray(vectors[:LARGE_WIDTH])
    turn, file = FeatureMap(square), open_vectors(path)
    index = Index(file, file, asked, asked, np.ones(LARGE, bool))

    def plain(matrix: np.ndarray) -> None:
        for first in range(0, LARGE, 4096):
            np.matmul(vectors[first : first + 4096], matrix)

    def ported() -> None:
        stream_index(file, turn, path.with_name("ported.npy"), {})
        path.with_name("ported.npy").unlink()

    works: dict[str, Any] = {
        "map: product alone": lambda: plain(square),
        "map: `module port`, file to file": ported,
        "search: product alone": lambda: plain(asked.T),
        "search: `study index`, of a file": lambda: index.search(asked, file),
    }
    with suppress(ImportError):
        faiss: Any = import_module("faiss")
        faiss.omp_set_num_threads(CORES)
        of_file, metric = partial(by_faiss, faiss, asked, file), faiss.METRIC_INNER_PRODUCT
        in_memory = partial(faiss.knn, asked, vectors, metric=metric)
        works["search: Faiss, in memory"] = lambda: in_memory(k=index.depth)
        works["search: Faiss, of a file"] = lambda: of_file(index.depth)
    with threadpool_limits(CORES):
        rounds = [[take(work) for work in works.values()] for _ in range(LARGE_ROUNDS)]
    seconds = {
        name: {"clock": np.round(clock, 2).tolist(), "cpu": np.round(cpu, 2).tolist()}
        for name, (clock, cpu) in zip(works, np.transpose(rounds, (1, 2, 0)), strict=True)
    }
    about = {"rows": LARGE, "width": LARGE_WIDTH, "queries": QUERIES, "depth": index.depth}
    return about | {"seconds": seconds, "measured": measure(path)}


def by_faiss(faiss: Any, asked: np.ndarray, file: VectorFile, depth: int) -> Ranking:
    """The same search by Faiss, of blocks that are read and scaled as ours."""
    parts, first = list[Ranking](), 0
    for block in file.blocks(OF_FAISS):
        scores, rows = faiss.knn(asked, to_unit(block), depth, faiss.METRIC_INNER_PRODUCT)
        parts.append(Ranking(first + rows, scores))
        first += len(block)
    return merge(parts, depth)


def take(work: Callable[[], object]) -> tuple[float, float]:
    """The seconds that it takes, by the clock and of CPU."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def measure(path: Path) -> dict[str, int]:
    """CPU seconds and peak MiB of ``study index``; one file stands for both models'."""
    rows = np.load(path, mmap_mode="r")[:: 5 * LARGE // QUERIES]
    asked = rows + np.random.default_rng(1).standard_normal(rows.shape, np.float32) / 100
    np.save(queries := path.with_name("queries.npy"), asked)
    command = [sys.executable, "-m", "compatbench", "study", "index", path, path]
    command += ["--queries", queries, queries, "--pairs", "1024", "--seeds", "1"]
    limits = {f"{name}_NUM_THREADS": str(CORES) for name in ("OMP", "OPENBLAS", "MKL")}
    process = subprocess.Popen(command, env=os.environ | limits, stdout=subprocess.DEVNULL)
    start = time.perf_counter()
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    about = {"queries": len(asked), "clock": round(time.perf_counter() - start)}
    cpu = round(used.ru_utime + used.ru_stime)
    return about | {"cpu": cpu, "peak_mib": round(used.ru_maxrss / 1024)}


def multiply(vectors: np.ndarray) -> float:
    """CPU seconds of the matrix products alone, with all vectors in memory, 4,096 at a time."""
    matrix = np.random.default_rng(0).standard_normal((WIDTH, WIDTH), np.float32)
    start = time.process_time()
    for first in range(0, len(vectors), 4096):
        np.matmul(vectors[first : first + 4096], matrix)
    return time.process_time() - start


def port(path: Path) -> dict[str, float]:
    """CPU seconds to read, map and write an index, and the peak memory of this process in MiB."""
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, WIDTH))).Q
    out = path.with_name("ported.npy")
    start = time.process_time()
    stream_index(open_vectors(path), FeatureMap(turn), out, {})
    seconds = time.process_time() - start
    out.unlink()
    return {"cpu_seconds": round(seconds, 3), "peak_mib": round(1024 * peak_gib())}


if __name__ == "__main__":
    typer.run(main)
