"""What a suite costs, counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from open_clip.model import CLIP
from tiny_models import wrap

from compatbench.backbone import DENSE, PIXELS, POOLED, ImageInput, load_backbone
from compatbench.backbone.device import PeakBytes
from compatbench.data.cards import SuiteCard, backbone_cards, suite_cards, task_cards
from compatbench.engine.costs import count_costs, estimate_seconds
from compatbench.engine.gpu_hours import estimate_hours, find_device_model, read_launches
from compatbench.engine.matrix import Matrix, select_matrix
from compatbench.engine.model_size import ModelSize, measure_model
from compatbench.engine.step_memory import AUTOGRAD, count_step
from compatbench.errors import CompatbenchError
from compatbench.method import FeatureSet, FewShotData, Labels
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod

SMOKE = suite_cards.read("smoke")


def matrix_of(suite: SuiteCard, *methods: str, **selection: Any) -> Matrix:
    return select_matrix(suite, builtin_methods(), methods, **selection)


def changed(**values: object) -> SuiteCard:
    return SuiteCard.model_validate(SMOKE.model_dump() | values)


@pytest.mark.parametrize("name", ["mini-clip", "mini-eva-clip"])
def test_what_is_stored_of_an_image_has_the_counted_size(name: str) -> None:
    size, backbone = measure_model(name), load_backbone(name)
    image = torch.zeros(1, 3, size.image_side, size.image_side)
    for wanted in (ImageInput("features"), POOLED, DENSE, PIXELS, ImageInput("hidden", block=2)):
        taken = backbone.encode_images(image, wanted)
        assert size.input_bytes(wanted) == taken.nbytes, wanted


def test_every_card_of_an_open_clip_model_has_a_size() -> None:
    cards = [backbone_cards.read(name) for name in backbone_cards.names()]
    assert [c.name for c in cards if c.config and measure_model(c.name) is None] == []


def test_images_are_counted_once_for_each_backbone_split_and_view() -> None:
    suite = changed(tasks=["mini-objects"], shots=[2], variants=["mini-objects-mono"], seeds=[1, 2])
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
    own = {"methods": {"gda": {"training": {"val_shots": 1, "views": "mirror"}}}}
    costs = count_costs(matrix_of(suite.model_copy(update=own), "tip_adapter,gda"))
    assert costs.images == 2 * tests + draws + 2 * len(card.classes) * (2 + 1)
    # Targets that are retrained on have their draws encoded, too.
    once, twice = (count_costs(matrix_of(changed(retrained=r), "coop")) for r in (False, True))
    tests = 2 * task_cards.read(SMOKE.tasks[0]).counts["test"]
    assert twice.images - tests == 2 * (once.images - tests)


def test_the_largest_step_is_named_and_what_cards_do_not_hold() -> None:
    large, methods = suite_cards.read("large"), ("coop", "mma", "flyp", "wise_ft_weights")
    costs = count_costs(matrix_of(large, *methods, seeds=[1]))
    assert (costs.step.method, costs.step.images) == ("flyp", 256)
    size = measure_model(costs.step.backbone)
    # Differences, shifted weights, gradients and two moments of both towers.
    assert costs.step.states == 5 * 4 * (size.text_weights + size.image_weights)
    # At once only what keeps to the room; hundreds of gigabytes in one batch.
    assert costs.step.count_bytes(2**30) < costs.step.states + 4 * 2**30
    assert costs.step.count_bytes() > 200 * 2**30
    assert "of 256 images at once" in costs.step.describe(costs.room_bytes)
    assert costs.beyond == {24: [], 48: [], 80: []}
    largest = matrix_of(suite_cards.read("full"), "coop", "flyp", shots=[1], seeds=[1])
    assert count_costs(largest).beyond == {24: ["coop", "flyp"], 48: ["flyp"], 80: ["flyp"]}


@pytest.mark.parametrize("name", ["mma", "wise_ft_weights", "clipood", "vpt_deep", "flyp"])
def test_a_step_takes_what_is_counted_within_a_quarter(name: str) -> None:
    """Of a tower twelve blocks deep, as ViT-B/16, with a quarter of its width and of its tokens."""
    images, cls = 8, cast(type[TrainedMethod], builtin_methods().get(name))
    recipe = cls.Config(max_steps=2).recipe.model_dump() | {"batch_size": images}
    values = {"max_steps": 2, "recipe": recipe}
    choice: Any = SimpleNamespace(name=name)
    choice.build = lambda task: cls(cls.Config.model_validate(values))
    image = dict(image_size=96, patch_size=12, width=192, head_width=64, layers=12)
    text = dict(context_length=32, vocab_size=2514, width=64, heads=2, layers=12)
    model: Any = CLIP(64, image, text, quick_gelu=True).requires_grad_(False)  # type: ignore[arg-type]
    method, backbone = choice.build(""), wrap(model, "deep")
    wanted, pixels = method.image_input(backbone), torch.randn(images, 3, 96, 96)
    features = backbone.encode_images(pixels)
    seen = FeatureSet(
        features, features[None], torch.arange(images), [backbone.encode_images(pixels, wanted)]
    )
    card = task_cards.read("mini-objects")
    data = FewShotData(Labels(tuple(card.classes), ("a {}.",), "a {}."), 1, seen, seen)
    with PeakBytes() as peak:
        method.fit(backbone, data, torch.Generator().manual_seed(1))
    weights = [
        sum(weight.numel() for weight in tower.parameters())
        for tower in (model, model.transformer, model.visual)
    ]
    size = ModelSize(weights[0], 64, weights[1], 12, weights[2], 12, 65, 192, 96, 0)
    step = count_step(choice, card, backbone.name, size)
    assert peak.most / 1.25 < step.count_bytes() - AUTOGRAD < 1.25 * peak.most


def test_hours_on_a_card_are_counts_over_stated_rates() -> None:
    upgrades = [["vit-b16-openai", "vit-l14-openai"]]
    suite = changed(tasks=["mini-objects"], seeds=[1], shots=[4], upgrades=upgrades)
    matrix = matrix_of(suite, "coop", "gda", "zeroshot")
    rates = find_device_model("H100")._replace(launch_seconds=1e-3, peak_flops={"fp32": 2e12})
    size, costs = measure_model("vit-b16-openai"), count_costs(matrix)
    frame = estimate_hours(matrix, costs, rates, "fp32").set_index("method")
    [cell] = [cell for cell in matrix.places if cell.name == "coop"]
    steps, classes = costs.steps, len(task_cards.read(cell.task).classes)
    launches = read_launches()["coop"]
    coop, whole = frame.loc["coop"], frame.loc["all"]
    assert coop["products"] * 3600 == pytest.approx(steps * 16 * size.text_weights * classes / 1e12)
    each = launches.fixed + 12 * launches.per_block
    assert coop["launches"] * 3600 == pytest.approx(steps * each * 1e-3)
    assert coop["hours"] == pytest.approx(max(coop["products"], coop["launches"]) + coop["other"])
    assert whole["decode"] * 3600 == pytest.approx(costs.images / 6400)
    assert whole["encode"] * 3600 == pytest.approx(costs.encode_flops / 1e12)
    images = max(whole["decode"], whole["encode"])
    assert whole["hours"] == pytest.approx(frame["hours"].iloc[:-1].sum() + images)
    with pytest.raises(CompatbenchError, match="choose from h100, a100"):
        find_device_model("h1000")


def test_an_estimate_counts_steps() -> None:
    """What a method was measured to take is followed in the tests of plans."""

    def seconds(suite: SuiteCard, method: str) -> float:
        matrix = matrix_of(suite, method)
        return sum(map(estimate_seconds(matrix), matrix.places))

    longer = changed(training=SMOKE.training.model_dump() | {"max_steps": 40})
    short, long = (seconds(one, "coop") - seconds(SMOKE, "zeroshot") for one in (SMOKE, longer))
    assert long == pytest.approx(2 * short) != 0


def test_ways_with_labels_are_counted_as_fits_on_every_target() -> None:
    longer = changed(training=SMOKE.training.model_dump() | {"max_steps": 400})

    ways = ("copied", "words-mean", "retrained+4")
    every = matrix_of(longer, "taskres", transfers=ways)
    seconds = {cell.transfer: estimate_seconds(every)(cell) for cell in every.places}
    assert seconds["words-mean"] < seconds["copied"] / 2 < seconds["retrained+4"]
    copied, words, anew = (
        count_costs(matrix_of(longer, "taskres", transfers={"copied", way})).steps for way in ways
    )
    assert (words, anew) == (copied, 2 * copied)  # it has one target
