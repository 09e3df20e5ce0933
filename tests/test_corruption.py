"""No byte of a stored file can change without being noticed."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compatbench.data.cache_files import read_entry, write_entry
from compatbench.engine.cell import CellRecord
from compatbench.engine.measure import predict, read_predictions, write_predictions
from compatbench.engine.store import RunStore, unseal
from compatbench.errors import CompatbenchError
from compatbench.method import Module, load_module

KEY = "5" * 64
ABOUT = {"name": "ä module", "config": {"lr": 1e-05, "large": 1e16}, "seed": 10}


def write_module(path: Path) -> None:
    tensors = {"a": torch.tensor([[1.5, -2.0]]), "b": torch.arange(3)}
    Module(trained={"a": tensors["a"]}, stored={"b": tensors["b"]}).save(path, ABOUT)


def write_features(path: Path) -> None:
    write_entry(path, torch.randn(4, 4), ABOUT)


def write_answers(path: Path) -> None:
    wheres = [("b", "t", "d"), ("c", "t", "d")]
    write_predictions(path, {where: predict(torch.randn(5, 3)) for where in wheres}, KEY)


def write_record(path: Path) -> None:
    record = dict(backbone="b", test_set="t", data="d", status="ok", correct=1, total=2)
    record |= dict(zero_shot_correct=1, ece=0.5)
    cell = dict(key=KEY, method="m", config=ABOUT, task="ä task", source="b", shots=1, seed=1)
    store = RunStore(path.parent)
    store.write(CellRecord.model_validate({**cell, "status": "ok", "records": (record,)}))
    store.cell_path(KEY).rename(path)


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "record": (write_record, lambda path: unseal(path.read_bytes())),
    "module": (write_module, load_module),
    "predictions": (write_answers, lambda path: read_predictions(path, KEY)),
    "features": (write_features, read_entry),
}


@pytest.fixture(params=KINDS)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[bytes, Callable[[bytes], bool]]:
    """A good file's bytes, and whether bytes in their place are accepted."""
    write, read = KINDS[request.param]
    path = tmp_path / "sample.safetensors"
    write(path)

    def is_accepted(content: bytes) -> bool:
        path.write_bytes(content)
        try:
            return read(path) is not None
        except (CompatbenchError, ValueError):
            return False

    whole = path.read_bytes()
    assert is_accepted(whole)
    return whole, is_accepted


@pytest.mark.slow
def test_a_change_of_any_byte_is_noticed(
    sample: tuple[bytes, Callable[[bytes], bool]],
) -> None:
    """Every place, each with a flipped bit, and with what a parser might pass over."""
    whole, is_accepted = sample
    draw = random.Random(1)
    for place, byte in enumerate(whole):
        others = {ord(draw.choice("\t\n\r E0")), byte ^ 1 << draw.randrange(8)}
        others |= {ord("E")} if byte == ord("e") else {ord("\n")} if byte == ord(" ") else set()
        for value in others - {byte}:
            changed = whole[:place] + bytes([value]) + whole[place + 1 :]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert not is_accepted(changed), (place, byte, value)


def test_a_file_cut_short_or_with_more_is_noticed(
    sample: tuple[bytes, Callable[[bytes], bool]],
) -> None:
    whole, is_accepted = sample
    for content in [*(whole[:i] for i in range(0, len(whole), 7)), whole + b" ", whole + b"\0"]:
        assert not is_accepted(content)
