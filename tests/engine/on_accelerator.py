"""Runs ``FOLDER/short.yaml`` on a processor, and on all cards of a make-believe accelerator."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from fake_accelerator import NAME, whole_harness

import compatbench as cb


def main(folder: Path, methods: list[str]) -> None:
    torch.set_num_threads(1)
    for name, compute in (
        ("processor", cb.Compute(device="cpu", jobs=1)),
        ("cards", cb.Compute(device=f"{NAME}:all", decoders=2)),
    ):
        with whole_harness():
            suite = str(folder / "short.yaml")
            failed = cb.run(suite, methods, out=folder / name, compute=compute).failures
        for cell, error in failed:
            print(name, cell.name, error, file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
