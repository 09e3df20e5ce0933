"""What it takes to port an index: vectors per second beside a plain matrix product, and memory.

python benchmark/speed/indexes.py                      # a minute; writes indexes.json
python benchmark/speed/indexes.py --most 10000000      # with ten million vectors, and 20 GB of disk
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
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
from compatbench.extras.indexes.vector_files import open_vectors

HERE = Path(__file__).parent
WIDTH, ROWS, ROUNDS = 512, 100_000, 5
SIZES = (1_000, 100_000, 1_000_000, 10_000_000)


def main(most: int = 1_000_000, child: Path | None = None) -> None:
    threadpool_limits(1)
    if child is not None:
        print(json.dumps(port(child)))
        return
    with TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "index.npy")
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
        }
        for rows in (size for size in SIZES if size <= most):
            # A file of zeros takes no room; what is written of it does.
            with path.open("wb") as file:
                about = {"descr": "<f4", "fortran_order": False, "shape": (rows, WIDTH)}
                np.lib.format.write_array_header_1_0(file, about)
                file.truncate(file.tell() + rows * WIDTH * 4)
            command = [sys.executable, __file__, "--child", str(path)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            figures["memory"].append({"rows": rows, **json.loads(said)})
    (HERE / "indexes.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


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
