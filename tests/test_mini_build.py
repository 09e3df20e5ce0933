"""The mini suite's build: its parts, and the promises its files must keep."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from compatbench.backbone.load import locate_weights, read_backbone, weights_key
from compatbench.data.cards import BackboneCard
from compatbench.tables.markdown import fill_section
from compatbench.tasks.mini.build import (
    classes,
    duplicates,
    likeness,
    sets,
    sheets,
    target,
    tokenizer,
    towers,
    training,
    upgrades,
)
from compatbench.tasks.mini.build.names import slug
from compatbench.tasks.mini.build.reading import read_split, sheet
from compatbench.tasks.mini.painting import paint

SPLITS = sorted(sheets.SPLITS_FOLDER.glob("*.csv"))
TASKS = classes.task_specs()
FIRST_TARGET = sets.TASKS_FOLDER / "backbones" / "mini-eva-clip.yaml"


def card_of(name: str) -> dict:
    return yaml.safe_load((sets.TASKS_FOLDER / f"mini-{name}.yaml").read_text(encoding="utf-8"))


def distinct_drawings(name: str) -> pd.DataFrame:
    """Return the drawings of a task, once for each class; ``tested`` marks those of the test."""
    rows = read_split(name).drop_duplicates(["label", "set", "tile"]).sort_values("set")
    return rows.assign(tested=rows.split == "test")


def test_painting_depends_on_the_seed_keeps_colours_and_contrasts_ink():
    tile = np.zeros((48, 48, 4), np.uint8)
    tile[12:36, 12:36] = (255, 0, 0, 255)
    first = np.asarray(paint(tile, False, 1))
    again = np.asarray(paint(tile, False, 1))
    other = np.asarray(paint(tile, False, 2))
    assert first.shape == (48, 48, 3)
    assert (first == again).all()
    assert (first != other).any()
    for seed in range(50):
        red = np.asarray(paint(tile, False, seed))[24, 24].astype(int)
        assert red[0] > 200
        assert red[1:].max() < 40
        inked = np.asarray(paint(tile, True, seed)).astype(int)
        assert np.abs(inked[24, 24] - inked[1, 1]).max() > 25


def test_tokenizer_fits_the_models_and_joins_the_most_frequent_pair_first():
    assert tokenizer.learn_merges({"aab": 3, "ab": 2}, 2) == [("a", "b</w>"), ("a", "ab</w>")]
    words = tokenizer.load_tokenizer()
    tokens = words("a photo of a honeybee.")
    assert words.vocab_size == 2514
    assert tokens.shape == (1, 32)
    assert tokens.max() == words.eot_token_id == 2513


@pytest.mark.parametrize("path", SPLITS, ids=lambda path: path.stem)
def test_splits_keep_the_promises(path):
    rows = pd.read_csv(path)
    card = card_of(path.stem)
    bounds = classes.limits()
    parent = card
    if "parent" in card:
        parent = card_of(card["parent"].removeprefix("mini-"))
    labels = set(range(len(parent["classes"])))
    assert list(rows.columns) == ["split", "label", "set", "tile", "paint"]
    assert rows.split.value_counts().to_dict() == card["counts"]
    assert len(labels) <= bounds["classes"]
    assert set(rows[rows.split == "test"].label) == labels
    assert set(rows.set) <= set(sets.names_with_role("held-out"))
    assert not rows.duplicated(["set", "tile", "paint"]).any()
    for name in set(rows.set):
        assert "SA" not in sets.icon_sets()[name].licence
    if path.stem in TASKS:
        sizes = rows.groupby(["split", "label"]).size()
        assert set(sizes["train"].index) == set(sizes["val"].index) == labels
        assert sizes["train"].between(bounds["min_train"], bounds["train"]).all()
        assert (sizes["val"] == bounds["val"]).all()
        assert sizes["test"].between(bounds["min_test"], bounds["test"]).all()


@pytest.mark.parametrize("name", TASKS)
def test_training_and_test_drawings_are_never_near_copies(name):
    drawings = distinct_drawings(name)
    tiles = np.stack([sheet(row.set)[row.tile] for row in drawings.itertuples()]) / 255
    grey = tiles[..., :3] @ (0.3, 0.59, 0.11) * tiles[..., 3] + 1 - tiles[..., 3]
    small = grey.reshape(len(tiles), 24, 2, 24, 2).mean((2, 4))
    likeness = np.corrcoef(small.reshape(len(tiles), -1))
    tested = drawings.tested.to_numpy()
    assert likeness[tested][:, ~tested].max() <= duplicates.NEARLY_SAME + 1e-5


def test_designs_of_a_family_stay_on_one_side():
    """The shipped files identify designs of classes of one concept: one for each family."""
    shared = 0
    for name, spec in TASKS.items():
        drawings = distinct_drawings(name)
        families = drawings.set.map(classes.family)
        for label, shown in enumerate(card_of(name)["classes"]):
            parts = spec.classes[shown]
            concepts = {*map(slug, parts.get("emoji", ())), *parts.get("icons", ())}
            if len(concepts) == 1:
                own = drawings[drawings.label == label].groupby(families).tested
                assert own.nunique().eq(1).all(), (name, shown)
                shared += int((own.size() > 1).sum())
        # No design that a variant tests is trained on in another style.
        trained = set(families[~drawings.tested])
        for variant in spec.variants.values():
            for drawing_set in variant.sets:
                assert classes.family(drawing_set) not in trained
    assert shared > 20


def test_manifest_matches_the_files():
    path = sets.MINI_FOLDER / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name, facts in manifest["files"].items():
        content = (sets.MINI_FOLDER / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == facts["sha256"], name
    for model, seen in manifest["pretraining"].items():
        assert not set(seen) & set(manifest["held_out_sets"]), model
    assert sum(facts["bytes"] for facts in manifest["files"].values()) < 64 * 2**20


@pytest.mark.slow
def test_likeness_on_page_and_card_equals_the_committed_results() -> None:
    facts, tables = likeness.likeness()
    page = likeness.PAGE.read_text(encoding="utf-8")
    card = likeness.CARD.read_text(encoding="utf-8")
    assert fill_section(page, "likeness", tables) == page
    assert fill_section(page, "steps", likeness.describe_steps()) == page
    assert likeness.fill_card(card, facts) == card


def test_a_sign_is_not_shown_if_an_interval_contains_zero() -> None:
    rows = {row["property"]: row for row in likeness.likeness()[0]}
    assert rows["CoOp's module on the target"]["holds"] == "yes"
    unclear = rows["ContCoOp's module on the target"]
    assert "(-" in unclear["it shows"]
    assert unclear["holds"] == likeness.NOT_SHOWN
    card = likeness.fill_card("likeness: ", list(rows.values()))
    assert "1 is not shown: ContCoOp's module on the target (an interval contains 0)." in card


def test_published_table_has_methods_with_all_eleven_datasets() -> None:
    table = likeness.published_table()
    assert table.shape[1] == likeness.DATASETS
    assert {"coop", "cocoop", "maple", "clip_lora", "gda"} <= {*table.index}
    assert "taskres" not in table.index  # its table has no ImageNet
    # The average of MaPLe equals the one that its authors publish.
    assert table.loc["maple"].mean() == pytest.approx(81.8, abs=0.05)
    assert "share 2 methods, too few for ranks" in likeness.ceiling()


def test_further_targets_differ_from_the_first_as_their_names_say(tmp_path):
    def facts(further: upgrades.Further) -> dict[str, object]:
        plan = further.plan(tmp_path)
        found: dict[str, object] = {"anchoring": plan.anchoring}
        for part in ("distillation", "contrastive"):
            recipe = getattr(plan, part)
            if recipe is not None:
                for name, value in vars(recipe).items():
                    found[f"{part}.{name}"] = value
        return found

    def changed(one: upgrades.Further, other: upgrades.Further) -> set[str]:
        return {name for name, _ in facts(one).items() ^ facts(other).items()}

    for kind in (towers.TARGET, towers.ANEW):
        first = upgrades.Further(kind, 5)
        seeds = {"distillation.seed", "contrastive.seed"}
        assert changed(first, upgrades.Further(kind, 6)) == seeds
        assert changed(first, upgrades.Further(kind, 5, 0.5)) == {"contrastive.steps"}
        assert changed(first, upgrades.Further(kind, 5, anchoring=1)) == {"anchoring"}
    assert upgrades.Further(towers.APART, 5).plan(tmp_path).distillation is None
    shipped = {target.DISTILLATION.seed}
    shipped |= {target.CONTRASTIVE[kind].seed for kind in (towers.TARGET, towers.ANEW)}
    every = upgrades.choose([*upgrades.TARGETS])
    assert not shipped & {further.seed for further in every}
    # Targets share no file except the distillation, from which all targets of a seed continue.
    plans = [further.plan(tmp_path) for further in every]
    for separate in ("weights", "facts", "checkpoints"):
        assert len({getattr(plan, separate) for plan in plans}) == len(every)
    assert len({plan.distilled for plan in plans if plan.distillation}) == 5


def test_further_targets_are_chosen_by_name_or_purpose():
    pair = ["mini-eva-clip-5", "mini-eva-clip-apart-5-length-0.5"]
    assert [each.name for each in upgrades.choose([*pair, pair[0]])] == pair
    both = {*upgrades.TARGETS["replication"], *upgrades.TARGETS["properties"]}
    assert {*upgrades.choose(["replication", "properties"])} == both
    with pytest.raises(SystemExit, match=r"no target.*'mini-eva-clip-4'.*replication"):
        upgrades.choose(["mini-eva-clip-4"])


@pytest.mark.slow
def test_anchored_step_adds_the_distance_from_the_source_texts():
    torch.manual_seed(0)
    model = towers.create(towers.TARGET)
    frozen = towers.create(towers.TARGET)
    tokens = tokenizer.load_tokenizer()([f"a photo of a {i}." for i in range(256)])
    order = tokens.argmax(-1).argsort(stable=True)
    batch = training.Batch(torch.randn(256, 3, 48, 48), tokens[order], torch.arange(256))
    losses = {}
    gradients = {}
    with ThreadPoolExecutor(2) as workers, torch.random.fork_rng():
        for weight in (0.0, 2.0):
            model.zero_grad()
            anchor = (frozen.requires_grad_(False), weight) if weight else None
            losses[weight], _ = training.contrastive_step(model, batch, workers, anchor)
            gradients[weight] = model.text.token_embedding.weight.grad.clone()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        # Grouping as in training changes only 16-bit rounding.
        texts = towers.encode_text(model, batch.tokens)
        kept = towers.encode_text(frozen, batch.tokens)
    distance = (texts - kept).square().sum(-1).mean()
    assert losses[2.0] - losses[0.0] == pytest.approx(2 * float(distance), rel=0.02)
    assert not torch.equal(gradients[0.0], gradients[2.0])
    for p in frozen.parameters():
        assert p.grad is None


@pytest.fixture
def card_of_target(tmp_path):
    """Write the card of a further target with these weights, and return its fields."""

    def write(further: upgrades.Further, weights: bytes) -> dict:
        path = further.plan(tmp_path).weights
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(weights)
        upgrades.write_card(tmp_path, further)
        return yaml.safe_load(path.with_suffix(".yaml").read_text())

    return write


def test_further_target_gets_a_card_beside_its_weights(card_of_target, tmp_path, monkeypatch):
    further = upgrades.Further(towers.TARGET, 5)
    card = card_of_target(further, b"weights")
    first = yaml.safe_load(FIRST_TARGET.read_text())
    changed = {key for key in card if card[key] != first.get(key)}
    assert changed == {"name", "title", "weights", "sha256"}
    monkeypatch.setenv("COMPATBENCH_CARDS", str(tmp_path / "upgrades"))
    found = read_backbone("mini-eva-clip-5")
    assert locate_weights(found) == further.plan(tmp_path).weights
    assert weights_key(found) == hashlib.sha256(b"weights").hexdigest()
    alone = card_of_target(upgrades.Further(towers.APART, 5, 0.5), b"weights")
    assert BackboneCard.model_validate(alone).text_from is None
    assert "nothing inherited, seed 5, 0.5 of the steps" in alone["title"]
