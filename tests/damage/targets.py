"""The readers of damaged files, each with a good file."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save as save_safetensors

from compatbench.backbone.load.checkpoint import read_tensors
from compatbench.data.cache_files import read_entry, write_entry
from compatbench.data.cards import BackboneCard, SuiteCard, TaskCard
from compatbench.data.cards.sources import WebdatasetSource
from compatbench.data.cards.yaml_file import read_card
from compatbench.data.layouts.listing import Classes
from compatbench.data.layouts.scanners import open_layout, read_split
from compatbench.engine.cell import CellRecord
from compatbench.engine.store import DAMAGED, RunStore, read_predictions, write_predictions
from compatbench.errors import CompatbenchWarning
from compatbench.files.project_folders import tasks_folder
from compatbench.method import Module, load_module
from compatbench.method.predictions import Predictions
from compatbench.results.result_files import ResultFiles
from compatbench.results.rows import Cost, Row, parse_csv, to_frame
from compatbench.results.stored_method import StoredMethod

KEY = "5" * 64
DATA = "d" * 64
PUBLISHED = Path(__file__).parents[2] / "results" / "mini-ablation"  # with few rows


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        name: the file's name.
        good: returns the bytes of a good file, given a folder to work in.
        read: reads a file of this name; its results are compared.
        sealed: True if the file has a checksum, so that reading must return what was written.
    """

    kind: str
    name: str
    good: Callable[[Path], bytes]
    read: Callable[[Path], Any]
    sealed: bool = False


def _card(path: str, model: type) -> tuple[Callable[[Path], bytes], Callable[[Path], Any]]:
    return lambda _: (tasks_folder() / path).read_bytes(), lambda file: read_card(file, model)


def _published(end: str) -> Callable[[Path], bytes]:
    return lambda _: (PUBLISHED / f"zeroshot.{end}").read_bytes()


def _read_about(file: Path) -> StoredMethod:
    suite = file.parent / "results" / "suite"
    suite.mkdir(parents=True, exist_ok=True)
    (suite / "zeroshot.csv").write_bytes(_published("csv")(file))
    (suite / "zeroshot.json").write_bytes(file.read_bytes())
    return ResultFiles(file.parent).read_method("suite", "zeroshot", to_frame([], Cost))


def _read_table(model: type[Row | Cost]) -> Callable[[Path], Any]:
    return lambda file: parse_csv(file.read_bytes(), file, model)


def _some_costs(_: Path) -> bytes:
    lines = (PUBLISHED / "costs.csv").read_bytes().splitlines(keepends=True)
    return b"".join(lines[:40])


def _record() -> CellRecord:
    values = dict(key=KEY, method="toy", config={"lr": 0.1}, task="t", source="b", shots=4, seed=1)
    record = dict(backbone="b", test_set="t", data=DATA, status="ok", correct=3, total=4)
    record |= dict(zero_shot_correct=2)
    return CellRecord.model_validate({**values, "status": "ok", "records": (record,)})


def _good_record(folder: Path) -> bytes:
    store = RunStore(folder / "runs")
    store.write(_record())
    return store.cell_path(KEY).read_bytes()


def _read_record(file: Path) -> CellRecord | None:
    store = RunStore(file.parent / "runs")
    path = store.cell_path(KEY)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.read_bytes())
    with warnings.catch_warnings():
        # The store warns that it set the file aside.
        warnings.simplefilter("ignore", CompatbenchWarning)
        record = store.read(KEY)
    shutil.rmtree(store.folder / DAMAGED, ignore_errors=True)  # thousands of files otherwise
    return record


def _saved(save: Callable[[Path], object]) -> Callable[[Path], bytes]:
    def good(folder: Path) -> bytes:
        save(folder / "good")
        return (folder / "good").read_bytes()

    return good


MODULE = Module({"context": torch.tensor([[1.5, -2.0]])}, {"labels": torch.tensor([0, 1])})
ABOUT = {"method": "tôy", "config": {"lr": 1e-05, "large": 1e16}}
ANSWERS = {("b", "t", DATA): Predictions(torch.tensor([1, 0]).int(), torch.tensor([0.5, 0.75]))}
FEATURES = torch.arange(6.0).reshape(2, 3), {"backbone": "b", "task": "t"}
STATE = {f"layer{n}.weight": torch.full((2, 2), float(n)) for n in range(4)}


def _read_module(file: Path) -> Any:
    module = load_module(file)
    return {name: tensor.tolist() for name, tensor in module.tensors.items()}, module.about


def _read_predictions(file: Path) -> Any:
    found = {}
    for where, answers in read_predictions(file, KEY).items():
        found[where] = (answers.classes.tolist(), answers.confidence.tolist())
    return found


def _read_entry(file: Path) -> Any:
    features = read_entry(file)
    return None if features is None else features.tolist()


def _split(_: Path) -> bytes:
    rows = [["a/1.jpg", 0, "cat"], ["b/2.jpg", 1, "dog"]]
    return json.dumps({"train": rows, "val": rows[:1], "test": rows}).encode()


def _shard(_: Path) -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(2):
            for name, content in (("cls", b"0"), ("png", picture.getvalue())):
                info = tarfile.TarInfo(f"s{number}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _read_shard(file: Path) -> Any:
    folder = file.parent / "pets" / "test"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0.tar").write_bytes(file.read_bytes())
    (folder / "nshards.txt").write_text("1")
    card = WebdatasetSource.model_validate({"kind": "webdataset", "folder": "pets"})
    shards = open_layout(folder.parent, card, Classes("pets", ("cat",), ("cat",), ("cat",)))
    return [shards.image(sample).size for sample in shards.samples["test"]]


TARGETS = (
    Target("task card", "card.yaml", *_card("mini-weather.yaml", TaskCard)),
    Target("backbone card", "card.yaml", *_card("backbones/mini-clip.yaml", BackboneCard)),
    Target("suite card", "card.yaml", *_card("suites/mini.yaml", SuiteCard)),
    Target("rows", "r.csv", _published("csv"), _read_table(Row)),
    Target("costs", "c.csv", _some_costs, _read_table(Cost)),
    Target("settings", "zeroshot.json", _published("json"), _read_about),
    Target("record", "record.json", _good_record, _read_record, sealed=True),
    Target("module", "m", _saved(partial(MODULE.save, about=ABOUT)), _read_module, sealed=True),
    Target(
        "predictions",
        "p",
        _saved(lambda path: write_predictions(path, ANSWERS, KEY)),
        _read_predictions,
        sealed=True,
    ),
    Target(
        "features",
        "good",
        _saved(lambda path: write_entry(path, *FEATURES)),
        _read_entry,
        sealed=True,
    ),
    Target("weights", "w.safetensors", lambda _: save_safetensors(STATE), read_tensors),
    Target("checkpoint", "w.pt", _saved(partial(torch.save, STATE)), read_tensors),
    Target("split file", "split.json", _split, read_split),
    Target("shard", "0.tar", _shard, _read_shard),
)
