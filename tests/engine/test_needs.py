"""The needs on a card: they are met, are in the keys, and no other method receives them."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planning import add_methods, cells_of
from torch import Tensor

from compatbench.backbone import load_backbone
from compatbench.data.cards import suite_cards, task_cards
from compatbench.data.draws import load_test_set
from compatbench.data.task import load_task
from compatbench.engine.keys import identify
from compatbench.engine.missing import Missing
from compatbench.engine.plan import find_teachers
from compatbench.engine.predict import predict_module
from compatbench.engine.worker import Worker
from compatbench.method import MethodCard

PLAIN = MethodCard("plain", "Plain", "none", "classifier", "is given nothing besides")
TASK = "mini-weather"
TEACHER = "mini-clip-next"
SMOKE = suite_cards.read("smoke")
# Two methods that check that they receive exactly what they need.
METHODS = """
    import torch
    import torch.nn.functional as F
    from compatbench.method import Method, MethodCard, Module
    from compatbench.methods.zeroshot import ZeroShot

    class Told(Method):
        card = MethodCard("told", "Told", "none", "classifier", "is told much",
                          needs={"unlabelled", "teacher", "stream"})

        class Config(Method.Config):
            teacher: str = "mini-clip-next"

        def fit(self, backbone, data, rng):
            own, pool = data.teacher.data, data.unlabelled
            assert data.teacher.backbone.name == self.config.teacher
            assert own.labels == data.labels and own.teacher is None
            assert pool.targets.eq(-1).all() and own.unlabelled.targets.eq(-1).all()
            assert len(pool) == len(own.unlabelled) == TRAINED > len(data.train) == len(own.train)
            assert pool.views.shape[0] == data.train.views.shape[0]
            # Row by row the same images: two models of one lineage agree on them.
            for mine, its in ((pool, own.unlabelled), (data.train, own.train)):
                cosines = F.normalize(mine.plain, dim=-1) @ F.normalize(its.plain, dim=-1).T
                assert cosines.argmax(1).eq(torch.arange(len(mine))).float().mean() > 0.8
            return Module({"mean": pool.plain.mean(0) + own.unlabelled.views.mean()})

        def attach(self, module, backbone, labels):
            weights = backbone.zero_shot(labels)

            def classify(images):
                assert len(images) == TESTED
                seen = images.cumsum(0) / torch.arange(1, 1 + len(images))[:, None]
                return F.normalize(images - 0.5 * seen, dim=-1) @ weights.T

            return classify

    class Untold(ZeroShot):
        card = MethodCard("untold", "Untold", "none", "classifier", "is told nothing")

        def fit(self, backbone, data, rng):
            assert data.teacher is None and data.unlabelled is None
            return Module({"w": torch.zeros(1)})
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "told.py"
    counts = task_cards.read(TASK).counts
    known = f"TRAINED, TESTED = {counts['train']}, {counts['test']}\n"
    path.write_text(known + textwrap.dedent(METHODS), encoding="utf-8")
    return path


def test_the_key_contains_what_the_card_needs_and_nothing_else() -> None:
    def key(*needs: Any, **config: str) -> str:
        return identify("plain.1", replace(PLAIN, needs=set(needs)), TASK, config)

    assert key() == key(teacher=TEACHER) == "plain.1"
    keys = [key(need, teacher=TEACHER) for need in ("unlabelled", "teacher", "stream")]
    keys += [key("teacher", teacher="mini-clip"), key("teacher", "stream", teacher=TEACHER)]
    assert len({"plain.1", *keys}) == 6
    other = identify("plain.1", replace(PLAIN, needs={"unlabelled"}), "mini-food")
    assert other != key("unlabelled")


@pytest.mark.slow
def test_fits_and_predictions_receive_what_the_card_needs(path: Path, worker: Worker) -> None:
    for cell in cells_of(SMOKE, add_methods(path)):
        assert worker.run(cell).errors == []


def test_a_teacher_that_is_not_here_is_missing_for_its_method_alone(path: Path) -> None:
    names = add_methods(path)
    suite = SMOKE.model_copy(update={"methods": {"told": {"teacher": "vit-h14-dfn5b"}}})
    assert find_teachers(suite, names) == ["vit-h14-dfn5b"]
    missing = Missing({"vit-h14-dfn5b": "it is not here"})
    cells = cells_of(suite, names, missing)
    assert [cell.method for cell in cells] == ["untold"]


def test_a_stream_comes_in_one_call_and_in_an_order_that_the_seed_draws(worker: Worker) -> None:
    backbone = load_backbone("mini-clip")
    task = load_test_set(TASK)
    weights = backbone.zero_shot(task.labels)
    calls: list[Tensor] = []

    def classify(images: Tensor) -> Tensor:
        calls.append(images)
        return images @ weights.T

    answers = [
        predict_module(classify, backbone, task, worker.cache, stream=seed).classes
        for seed in (None, 1, 1, 2)
    ]
    # A few images first, to size the batches; a stream has none.
    _, plain, first, again, other = calls
    assert all(torch.equal(one, answers[0]) for one in answers)  # whatever the order
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)
    assert not torch.equal(first, other)
    assert torch.equal(first.sum(1).sort().values, plain.sum(1).sort().values)
    assert len(plain) == len(load_task(TASK).split("test"))
