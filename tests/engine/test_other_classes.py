"""Modules on classes that they were not fitted for: attached anew, or not applicable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import compatbench as cb
from compatbench.backbone import Labels, load_backbone
from compatbench.data.cards import suite_cards
from compatbench.data.task import load_task
from compatbench.engine.attach import Attached, Carried
from compatbench.engine.plan import plan_cells
from compatbench.engine.worker import Worker, build_method
from compatbench.errors import NotTransferable
from compatbench.method.registry import builtin_methods
from compatbench.results.collect import rows_of


@pytest.mark.slow
def test_a_prompt_serves_new_classes_and_a_residual_does_not(worker: Worker) -> None:
    card = suite_cards.read("mini-base-to-new")
    names = ["zeroshot", "kgcoop", "taskres"]
    short = {name: {"max_steps": 3} for name in names[1:]}
    suite = card.model_copy(
        update={"upgrades": (("mini-clip", "mini-eva-clip"),), "methods": short}
    )
    cells = plan_cells(suite, builtin_methods(), names, ["mini-signs"], seeds=[1], shots=[2])
    records = {cell.method: (cell, worker.run(cell)) for cell in cells}
    new = load_task("mini-signs.new")
    targets = torch.tensor([one.label for one in new.split("test")])
    for method in ("zeroshot", "kgcoop"):
        cell, record = records[method]
        rows = rows_of(cell, record, worker.store)
        found = {(row.backbone, row.test_set): row for row in rows}
        assert {row.status for row in rows} == {"ok"}
        assert len(found) == 4
        module = worker.store.read_module(worker.store.read(cell.fit_key))  # type: ignore[arg-type]
        assert module is not None
        answers = {}
        for name in cell.backbones:
            backbone = load_backbone(name)
            features = worker.cache.features(backbone, new, new.split("test"))
            with torch.no_grad():
                logits = build_method(cell).attach(module, backbone, new.labels)(features)
            own = F.normalize(features, dim=-1) @ backbone.zero_shot(new.labels).T
            row = found[name, "mini-signs.new"]
            assert logits.shape == (len(targets), len(new.labels))
            assert row.correct == int((logits.argmax(-1) == targets).sum())
            assert row.zero_shot_correct == int((own.argmax(-1) == targets).sum())
            answers[name] = logits.argmax(-1) == targets
        before, after = answers["mini-clip"], answers["mini-eva-clip"]
        row = found["mini-eva-clip", "mini-signs.new"]
        assert row.negative_flips == int((before & ~after).sum())
    [*rows] = records["taskres"][1].records
    assert [one.status for one in rows if one.test_set == "mini-signs.base"] == ["ok", "ok"]
    others = [one for one in rows if one.test_set == "mini-signs.new"]
    # As many new classes as base ones: only the question itself tells.
    assert len(new.labels) == len(load_task("mini-signs.base").labels)
    assert [one.status for one in others] == ["not transferable"] * 2
    assert all(one.reason.startswith("not applicable: the module knows the") for one in others)


@pytest.mark.slow
def test_one_task_s_module_is_tested_on_others_under_the_same_key(worker: Worker) -> None:
    card = suite_cards.read("mini-cross")
    one = {"upgrades": (("mini-clip", "mini-clip-next"),)}
    suite = card.model_copy(update={"tasks": ("mini-signs",), "methods": {}, **one})
    [crossed] = plan_cells(suite, builtin_methods(), ["simpleshot"], seeds=[1])
    [zero] = plan_cells(suite, builtin_methods(), ["zeroshot"])
    plain = plan_cells(suite_cards.read("mini"), builtin_methods(), ["simpleshot"], seeds=[1])
    assert crossed.key in {cell.key for cell in plain}
    rows = rows_of(zero, worker.run(zero), worker.store)
    sets = {row.test_set: row for row in rows if row.backbone == "mini-clip"}
    assert [*sets] == ["mini-objects", "mini-signs"]
    assert all(one.correct == one.zero_shot_correct for one in sets.values())
    assert sets["mini-signs"].total == len(load_task("mini-signs").split("test"))


def test_a_module_is_asked_on_its_source_which_it_fits_without_a_transfer() -> None:
    @dataclass
    class Narrow:
        least: int

        def attach(self, module: object, backbone: str, labels: Labels) -> None:
            if backbone != "source":
                raise NotTransferable("another width")
            if len(labels) < self.least:
                raise NotTransferable("fewer classes")

    labels: Any = Labels(("cat", "dog", "elk"), ("{}",), "{}")
    given: Any = (None, "source", "target", labels, None)
    nothing: Any = (None,) * 5
    for least, why in ((0, ""), (3, "fewer classes")):
        carried = Carried(Narrow(least), *given)  # type: ignore[arg-type]
        assert Attached(nothing[0], carried, *nothing[1:], 0.0).keeps_classes == why


def test_a_user_fits_a_half() -> None:
    module = cb.fit("simpleshot", task="mini-signs.base", source="mini-clip", shots=2)
    assert module.about["task"] == "mini-signs.base"
