"""What a suite costs, counted."""

from __future__ import annotations

import pytest
import torch

from compatbench.backbone import (
    DENSE,
    PIXELS,
    POOLED,
    ImageInput,
    load_backbone,
    memory_budget,
)
from compatbench.data.cards import SuiteCard, suite_cards, task_cards
from compatbench.engine.cell import describe_cell
from compatbench.engine.costs import TimeEstimate, count_costs
from compatbench.engine.matrix import Matrix, select_matrix
from compatbench.engine.model_size import measure_model
from compatbench.method.registry import builtin_methods


def matrix_of(suite: SuiteCard, *methods: str, seeds: list[int] | None = None) -> Matrix:
    return select_matrix(suite, builtin_methods(), methods, seeds=seeds)


def fit_seconds(suite: SuiteCard, *methods: str) -> float:
    matrix = matrix_of(suite, *methods)
    return sum(map(TimeEstimate(matrix).cell, matrix.places))


@pytest.mark.parametrize("name", ["mini-clip", "mini-eva-clip"])
def test_a_model_s_sizes_are_those_of_the_loaded_model(name: str) -> None:
    size, backbone = measure_model(name), load_backbone(name)
    assert size is not None
    assert size.parameters == sum(p.numel() for p in backbone.model.parameters())
    assert size.embed_dim == backbone.embed_dim
    image = torch.zeros(1, 3, size.image_side, size.image_side)
    for wanted in (ImageInput("features"), POOLED, DENSE, PIXELS, ImageInput("hidden", block=2)):
        taken = backbone.encode_images(image, wanted)
        assert size.input_bytes(wanted) == taken.nbytes, wanted


def test_images_are_counted_once_for_each_backbone_split_and_view() -> None:
    values = suite_cards.read("smoke").model_dump() | {"tasks": ["mini-objects"], "shots": [2]}
    suite = SuiteCard.model_validate(values | {"variants": ["mini-objects-mono"], "seeds": [1, 2]})
    costs = count_costs(matrix_of(suite, "tip_adapter"))
    card, variant = task_cards.read("mini-objects"), task_cards.read("mini-objects-mono")
    tests = card.counts["test"] + variant.counts["test"]
    # Two seeds of two shots: under two views and plain, and two of each class to validate.
    draws = 2 * len(card.classes) * (2 * 3 + 2)
    assert costs.images == 2 * tests + draws
    assert costs.features_bytes == costs.images * 128 * 4
    more = suite.model_copy(update={"training": suite.training.model_copy(update={"views": 9})})
    extra = count_costs(matrix_of(more, "tip_adapter")).memory_bytes - costs.memory_bytes
    assert extra == (9 - 2) * 2 * len(card.classes) * 128 * 4
    # Validation images of a number of a method's own are others.
    training = {"val_shots": 1, "views": "mirror"}
    own = suite.model_copy(update={"methods": {"gda": {"training": training}}})
    costs = count_costs(matrix_of(own, "tip_adapter,gda"))
    assert costs.images == 2 * tests + draws + 2 * len(card.classes) * (2 + 1)


def test_steps_through_the_text_tower_are_counted_with_the_suite_s_cap() -> None:
    suite = suite_cards.read("smoke")
    longer = SuiteCard.model_validate(
        suite.model_dump() | {"training": suite.training.model_dump() | {"max_steps": 40}}
    )
    evaluation = fit_seconds(suite, "zeroshot")
    short, long = (fit_seconds(one, "coop") - evaluation for one in (suite, longer))
    assert long == pytest.approx(2 * short)


def test_retraining_encodes_and_fits_on_the_targets_too() -> None:
    suite = suite_cards.read("smoke")
    retrained = SuiteCard.model_validate(suite.model_dump() | {"retrained": True})
    once, twice = (count_costs(matrix_of(one, "coop")) for one in (suite, retrained))
    assert matrix_of(retrained, "coop").retrained == len(matrix_of(suite, "coop").places) == 1
    [task] = suite.tasks
    tests = 2 * task_cards.read(task).counts["test"]
    assert twice.images - tests == 2 * (once.images - tests)


def test_the_real_suites_are_counted_without_data_or_weights() -> None:
    matrix = matrix_of(suite_cards.read("ood"), "coop", seeds=[1])
    costs = count_costs(matrix)
    # 50 epochs on ImageNet, as CoOp's authors have it, of 16,000 images in batches of 32; on every
    # source, and on every target, which is a source as well.
    assert costs.steps == len(matrix.places) * 50 * 500
    assert costs.images > 4 * (50_000 + 10_000 + 50_889 + 7_500 + 30_000)
    assert costs.memory_bytes > 4 * 2 * (149_000_000 + 427_000_000)
    # A step keeps 16 numbers of each token and block, of four tokens of each class, and no more
    # than the budget.
    size = measure_model("vit-b16-openai")
    assert size is not None
    assert size.text_numbers == pytest.approx(512 * 12, rel=0.01)
    with memory_budget(2**20):
        bounded = count_costs(matrix)
    assert costs.memory_bytes - bounded.memory_bytes > 1000 * 4 * 16 * 4 * 512 * 12
    assert costs.unknown == ()
    assert costs.tokens_bytes == 0
    # Tokens of the first block, of the test images alone, on ViT-B/16s or larger.
    deep = count_costs(matrix_of(suite_cards.read("ood"), "coop", "vpt_deep", seeds=[1]))
    assert deep.tokens_bytes > 2 * (50_000 + 10_000 + 50_889 + 7_500 + 30_000) * 197 * 768 * 4


def test_an_estimate_follows_what_a_method_was_measured_to_take() -> None:
    matrix = matrix_of(suite_cards.read("mini"), "coop", "taskres", seeds=[1])
    plain = TimeEstimate(matrix)
    cells = {cell.name: cell for cell in matrix.cells()}
    done = describe_cell(cells["taskres"], "ok", fit_seconds=40)
    measured = TimeEstimate(matrix, [(cells["taskres"], done.fit_seconds)])
    assert plain.cell(cells["coop"]) > plain.cell(cells["taskres"]) > 0
    assert measured.cell(cells["taskres"]) == pytest.approx(40)
    assert measured.cell(cells["coop"]) == plain.cell(cells["coop"])
