"""The mini suite's build: its parts, and the promises its files must keep."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy, normalize

from compatbench.backbone import load_backbone
from compatbench.backbone.load import locate_weights, read_backbone, weights_key
from compatbench.files.hashes import hash_file
from compatbench.results.estimate import Interval
from compatbench.tables.markdown import fill_section
from compatbench.tasks.mini.build import (
    classes,
    corpus,
    duplicates,
    likeness,
    sets,
    sheets,
    source,
    stage,
    target,
    tokenizer,
    towers,
    training,
    upgrades,
)
from compatbench.tasks.mini.build.captions import CaptionWriter
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


def test_a_property_is_not_shown_if_an_interval_contains_the_limit() -> None:
    rows = {row["property"]: row for row in likeness.likeness()[0]}
    assert rows["CoOp's module on the target"]["holds"] == "yes"
    unclear = rows["ContCoOp's module on the target"]
    assert "(-" in unclear["it shows"]
    assert unclear["holds"] == likeness.NOT_SHOWN
    card = likeness.fill_card("likeness: ", list(rows.values()))
    assert "are not shown (an interval contains the limit): zero-shot accuracy; " in card


def test_a_property_holds_or_fails_only_by_a_whole_interval() -> None:
    inside = Interval(50, 46, 54, 8)
    reaching = Interval(50, 44, 56, 8)
    outside = Interval(30, 20, 40, 8)
    assert likeness.lies_within(inside, 45, 70) is True
    assert likeness.lies_within(reaching, 45, 70) is None
    assert likeness.lies_within(outside, 45, 70) is False
    assert likeness.lies_within(reaching, least=56) is None  # reaches the limit
    assert likeness.all_hold([True, None]) is None
    assert likeness.all_hold([True, None, False]) is False
    assert likeness.all_hold([True, True]) is True


def test_a_correlation_of_few_methods_is_not_shown() -> None:
    rows = []
    for place in range(likeness.FEWEST_METHODS):
        for task in "abcdef":
            rows.append({"method": f"m{place:02}", "task": task, "shots": 16, "accuracy": place})
    source = pd.DataFrame(rows)
    alike = source.pivot(index="method", columns="task", values="accuracy")
    assert likeness.rank_agreement(source, alike)["holds"] == "yes"
    assert likeness.rank_agreement(source, -alike)["holds"] == likeness.FAILS
    few = alike.iloc[1:]
    assert likeness.rank_agreement(source, few)["holds"] == likeness.NOT_SHOWN
    assert likeness.rank_agreement(source, -few)["holds"] == likeness.NOT_SHOWN


def test_published_gains_are_those_of_the_table() -> None:
    rows = {row["property"]: row for row in likeness.likeness()[0]}
    published = likeness.published_table()
    coop = published.loc["coop"].mean() - likeness.ZERO_SHOT
    probe = published.loc["linear_probe"].mean() - likeness.ZERO_SHOT
    shown = rows["gain of CoOp beside the probe's"]["real models"]
    assert f"({coop:.1f} and {probe:.1f} points)" in shown


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
        found: dict[str, object] = {"source": plan.source_weights.name}
        for name in ("anchoring", "compatible"):
            found[name] = getattr(plan, name)
        for part in ("distillation", "contrastive"):
            for name, value in vars(getattr(plan, part)).items():
                found[f"{part}.{name}"] = value
        return found

    def changed(one: upgrades.Further, other: upgrades.Further) -> set[str]:
        return {name for name, _ in facts(one).items() ^ facts(other).items()}

    for kind in (towers.TARGET, towers.ANEW):
        first = upgrades.Further(kind, 5)
        seeds = {"distillation.seed", "contrastive.seed"}
        assert changed(first, upgrades.Further(kind, 6)) == seeds
        assert changed(first, upgrades.Further(kind, 5, towers.SECOND_SOURCE)) == {"source"}
        assert changed(first, upgrades.Further(kind, 5, anchoring=1)) == {"anchoring"}
        assert changed(first, upgrades.Further(kind, 5, compatible=True)) == {"compatible"}
    shipped = {target.DISTILLATION.seed}
    shipped |= {recipe.seed for recipe in target.CONTRASTIVE.values()}
    every = upgrades.choose([*upgrades.TARGETS])
    assert not shipped & {further.seed for further in every}
    # Targets share no file except the distillation, from which all targets of a seed continue.
    plans = [further.plan(tmp_path) for further in every]
    for separate in ("weights", "facts", "checkpoints"):
        assert len({getattr(plan, separate) for plan in plans}) == len(every)
    seeds_of_sources = {(further.source, further.seed) for further in every}
    assert len({plan.distilled for plan in plans}) == len(seeds_of_sources) == 2


def test_each_kind_has_two_targets_of_the_first_source_and_one_of_the_second():
    kinds = (towers.TARGET, towers.ANEW)
    count = Counter((towers.SOURCE, kind) for kind in kinds)  # those that ship
    for further in upgrades.choose(["replication", "second-source"]):
        count[further.source, further.kind] += 1
    for kind in kinds:
        assert count[towers.SOURCE, kind] == 2
        assert count[towers.SECOND_SOURCE, kind] == 1


def test_further_targets_are_chosen_by_name_or_purpose():
    pair = ["mini-clip-2-eva-anew-7", "mini-eva-clip-anew-5-anchored-1"]
    assert [each.name for each in upgrades.choose([*pair, pair[0]])] == pair
    both = {*upgrades.TARGETS["replication"], *upgrades.TARGETS["compatible"]}
    assert {*upgrades.choose(["replication", "compatible"])} == both
    with pytest.raises(SystemExit, match=r"no target.*'mini-eva-clip-4'.*replication"):
        upgrades.choose(["mini-eva-clip-4"])


@pytest.fixture
def small_batches(monkeypatch):
    """Train on batches of eight pairs."""
    for module in (stage, target, training):
        monkeypatch.setattr(module, "BATCH", 8)
    monkeypatch.setattr(training, "TEXT_GROUPS", (4, 4))


@pytest.fixture
def few_steps(small_batches, monkeypatch):
    """Train for a few steps, on random drawings."""
    rng = np.random.default_rng(0)
    drawings = torch.from_numpy(rng.integers(0, 256, (12, 48, 48, 4), np.uint8))
    rows = {"label": "", "tags": "", "style": "", "set": "openmoji", "emoji": True, "tone": 0}
    table = pd.DataFrame({"concept": [f"thing-{i}" for i in range(12)], **rows})
    captions = CaptionWriter.for_table(table)
    monochrome = torch.zeros(12, dtype=torch.bool)
    drawn = corpus.Corpus(drawings, monochrome, torch.arange(12), np.full(12, 1 / 12), captions)
    for module in (source, target):
        monkeypatch.setattr(module, "load_corpus", lambda *_: drawn)
    monkeypatch.setattr(stage, "REPORT_EVERY", 2)
    for module, name in ((source, "FIRST"), (source, "SECOND"), (upgrades, "DISTILLATION")):
        monkeypatch.setattr(module, name, replace(getattr(module, name), steps=3))
    for kind, recipe in target.CONTRASTIVE.items():
        monkeypatch.setitem(target.CONTRASTIVE, kind, replace(recipe, steps=3))
    monkeypatch.setattr(upgrades, "table_path", lambda work: sets.MINI_FOLDER)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the program does; both towers run side by side
    yield
    torch.set_num_threads(threads)


def read_trained(work: Path) -> dict[str, str]:
    """Return the hashes of the weights that a working folder has in ``upgrades/``."""
    return {path.stem: hash_file(path) for path in (work / "upgrades").glob("*.safetensors")}


def test_training_killed_anywhere_resumes_to_the_same_models(few_steps, tmp_path, monkeypatch):
    name = "mini-clip-2-eva-anew-7"
    uninterrupted = tmp_path / "uninterrupted"
    upgrades.train_upgrades(uninterrupted, [name])
    expected = read_trained(uninterrupted)
    assert {*expected} == {"mini-clip-2", name}
    # Kill the process at every third step or writing of weights.
    moments = 0

    class Killed(BaseException):
        pass

    def may_kill(function):
        def call(*arguments):
            nonlocal moments
            moments += 1
            if moments % 3 == 0:
                raise Killed
            return function(*arguments)

        return call

    monkeypatch.setattr(stage, "set_rates", may_kill(stage.set_rates))
    monkeypatch.setattr(towers, "save", may_kill(towers.save))
    kills = 0
    killed = tmp_path / "killed"
    while kills < 20:
        try:
            upgrades.train_upgrades(killed, [name])
        except Killed:
            kills += 1
        else:
            break
    assert 4 < kills < 20
    assert read_trained(killed) == expected
    facts = json.loads((killed / "upgrades" / f"{name}.json").read_text())
    assert {each["steps"] for each in facts["stages"].values()} == {3}


def test_weights_are_written_after_the_facts_of_a_training(few_steps, tmp_path, monkeypatch):
    weights = upgrades.weights_path(tmp_path, towers.SECOND_SOURCE)
    facts = upgrades.facts_path(tmp_path, towers.SECOND_SOURCE)
    with monkeypatch.context() as killed:
        killed.setattr(source, "write_facts", lambda *_, **stages: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            source.train_second_source(tmp_path, weights, facts)
    # Weights without facts would count as a finished training.
    assert not weights.exists()
    source.train_second_source(tmp_path, weights, facts)
    assert weights.exists()
    assert facts.exists()


def test_targets_are_trained_with_the_penalty_in_their_name(few_steps, tmp_path, monkeypatch):
    given = {}
    contrast = target.contrast

    def record(folder, name, model, corpus, recipe, old):
        given[folder.name] = old
        return contrast(folder, name, model, corpus, recipe, old)

    monkeypatch.setattr(target, "contrast", record)
    plain = "mini-eva-clip-anew-5"
    upgrades.train_upgrades(tmp_path, [plain, f"{plain}-anchored-1", f"{plain}-compatible"])
    assert given[plain] is None
    anchored = given[f"{plain}-anchored-1"]
    compatible = given[f"{plain}-compatible"]
    assert (anchored.anchoring, anchored.compatible) == (1, False)
    assert (compatible.anchoring, compatible.compatible) == (0, True)
    source_weights = towers.load("mini-clip", sets.MINI_FOLDER / "mini-clip.safetensors")
    for old in (anchored, compatible):
        for name, tensor in source_weights.state_dict().items():
            assert torch.equal(old.model.state_dict()[name], tensor), name
    assert len({*read_trained(tmp_path).values()}) == 3


def test_influence_loss_classifies_new_images_with_old_captions():
    images = torch.eye(3)
    right = torch.eye(3)
    swapped = right[[1, 0, 2]]
    scale = torch.tensor(5.0)
    concepts = torch.arange(3)
    good = training.influence_loss(images, right, scale, concepts)
    bad = training.influence_loss(images, swapped, scale, concepts)
    # One right caption of three: a cosine of 1 against two of 0.
    assert float(good) == pytest.approx(np.log(np.exp(5) + 2) - 5)
    assert float(bad) == pytest.approx((float(good) + 2 * (float(good) + 5)) / 3)
    # A caption of the same concept is not wrong.
    same = torch.tensor([0, 0, 1])
    assert float(training.influence_loss(images, swapped, scale, same)) < float(bad)


@pytest.mark.parametrize(
    "parts", [{"anchoring": 2.0}, {"compatible": True}], ids=["anchored", "compatible"]
)
def test_step_adds_what_the_old_model_says_of_the_captions(parts, small_batches):
    torch.manual_seed(0)
    model = towers.create(towers.TARGET)
    frozen = towers.create(towers.TARGET).requires_grad_(False)
    frozen.logit_scale.fill_(2.0)
    tokens = tokenizer.load_tokenizer()([f"a photo of a {i}." for i in range(8)])
    batch = training.Batch(torch.randn(8, 3, 48, 48), tokens, torch.arange(8))
    losses = []
    gradients = []
    with ThreadPoolExecutor(2) as workers:
        for old in (None, training.OldTexts(frozen, **parts)):
            model.zero_grad()
            loss, _ = training.contrastive_step(model, batch, workers, old)
            losses.append(float(loss))
            images = model.visual.trunk.patch_embed.proj.weight.grad.clone()
            texts = model.text.token_embedding.weight.grad.clone()
            gradients.append({"images": images, "texts": texts})
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        # Grouping as in training changes only 16-bit rounding.
        images = towers.encode_images(model, batch.images)
        texts = towers.encode_text(model, batch.tokens)
        old_texts = towers.encode_text(frozen, batch.tokens)
        if "anchoring" in parts:
            added = 2 * (texts - old_texts).square().sum(-1).mean()
            trained = "texts"
        else:
            logits = np.exp(2.0) * images.float() @ old_texts.float().T
            own = torch.arange(8)
            added = sum(cross_entropy(each, own) for each in (logits, logits.T)) / 2
            trained = "images"
    assert losses[1] - losses[0] == pytest.approx(float(added), rel=0.02)
    # Each part trains one of the two towers.
    for tower in ("images", "texts"):
        unchanged = torch.equal(gradients[0][tower], gradients[1][tower])
        assert unchanged == (tower != trained)
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
    compatible = card_of_target(upgrades.Further(towers.ANEW, 5, compatible=True), b"weights")
    assert "new embedding space, seed 5, backward-compatible" in compatible["title"]


def test_models_of_the_second_source_are_loaded_by_their_cards(tmp_path, monkeypatch):
    further = upgrades.Further(towers.ANEW, 7, towers.SECOND_SOURCE)
    configs = {"mini-clip-2": "mini-clip-2", further.name: "mini-clip-2-eva"}
    features = {}
    images = torch.randn(2, 3, 48, 48)
    for name, config in configs.items():
        model = towers.create(config).eval().requires_grad_(False)
        towers.save(model, upgrades.weights_path(tmp_path, name))
        features[name] = towers.encode_images(model, images)
    upgrades.write_source_card(tmp_path)
    upgrades.write_card(tmp_path, further)
    monkeypatch.setenv("COMPATBENCH_CARDS", str(tmp_path / "upgrades"))
    card = read_backbone(further.name)
    assert card.title == "mini EVA-CLIP 2, new embedding space, seed 7 (EVA-02, patch 12, 160 wide)"
    assert card.text_from == "mini-clip-2"
    assert "initialised from mini-clip-2," in card.lineage
    assert "distilled from mini-clip-2's" in card.lineage
    assert read_backbone("mini-clip-2").title == "mini CLIP 2 (ViT, patch 12, 160 wide)"
    for name, expected in features.items():
        found = normalize(load_backbone(name).encode_images(images))
        assert torch.allclose(found, expected, atol=1e-2)
