"""The models of the suite upgrades-2026: their sizes, their towers, and methods that transfer."""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import pytest
import timm
import torch
from image_reference import few_shots
from loading_models import write_tokenizer
from open_clip.model import CLIP, CustomTextCLIP
from tiny_models import VOCABULARY, randomise, wrap

import compatbench as cb
from compatbench.backbone import Backbone, ImageTower, Labels
from compatbench.backbone.build import build_architecture
from compatbench.backbone.load import read_backbone
from compatbench.data.cards import backbone_cards, suite_cards
from compatbench.errors import NotTransferable
from compatbench.method import Method, Module
from compatbench.method.registry import builtin_methods

pytest.importorskip("transformers")  # for tokenizers that are not CLIP's
pytestmark = pytest.mark.usefixtures("no_weights_here")

PAGE = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## Which modules fit a new model")[1].split("\n## ")[0]
# The page's tables: sizes by model, and answers by upgrade.
SIZES: dict[str, list[str]] = {}
MOVES: dict[tuple[str, ...], list[str]] = {}
for line in SECTION.splitlines():
    if line.startswith("| `"):
        first_cell, *cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if "→" in first_cell:
            MOVES[tuple(re.findall(r"[\w-]{3,}", first_cell))] = cells
        else:
            for name in first_cell.replace("`", "").split(", "):
                SIZES[name] = cells
METHODS = ("coop", "taskres", "clip_adapter", "maple", "vpt_deep", "clip_lora")
LABELS = Labels(("dog", "red apple", "tree"), ("a photo of a {}.",), "a photo of a {}.")
NO_START = "prompts of inner blocks follow start-of-text, which this text tower does not have"


@pytest.mark.parametrize("name", SIZES)
def test_architecture_has_the_sizes_of_the_page(name: str) -> None:
    card: Any = backbone_cards.read(name)
    model: Any = build_architecture(card, device="meta")
    text = getattr(model, "text", model)
    image = ImageTower(model.visual, name)
    joint = int(SIZES[name][1])
    side = int(SIZES[name][3])
    blocks, width, tokens = map(int, re.findall(r"\d+", SIZES[name][0])[:3])
    assert len(text.transformer.resblocks) == blocks
    assert text.token_embedding.embedding_dim == width
    assert text.context_length == tokens
    blocks, width, tokens = map(int, re.findall(r"\d+", SIZES[name][2]))
    assert (image.depth, image.width, image.tokens) == (blocks, width, tokens)
    assert model.visual.preprocess_cfg["size"] in (side, (side, side))
    # Prompts and low-rank updates of these sizes can be encoded.
    prompts = [torch.empty(2, image.width, device="meta")] * 2
    update = {(image.depth - 1, part): lambda output, _: output for part in ("q", "v", "mlp")}
    with torch.no_grad():
        pixels = torch.empty(1, 3, side, side, device="meta")
        features = image.encode(pixels, prompts=prompts, block_updates=update)  # type: ignore[arg-type]
    assert features.shape == (1, joint)
    config: Any = open_clip.get_model_config(card.config)
    own = config["text_cfg"].get("hf_tokenizer_name")
    assert (own is None) == (text.token_embedding.num_embeddings == 49408)
    assert model.logit_scale.shape == ()
    assert (model.logit_bias is not None) == name.startswith("siglip")


NARROWER = 16  # times, all widths: equal ones stay equal
SHORTER = 6  # times, the towers
CONVOLVED = "vit_base_mci_224"  # the convolutions before MobileCLIP's blocks have one width


def shrink(name: str, folder: Path) -> Backbone:
    """Return a small model of a card: fewer and narrower blocks, and small images.

    Tokenizers that are not CLIP's are written to ``folder``.
    """
    release: Any = backbone_cards.read(name)
    config: Any = copy.deepcopy(open_clip.get_model_config(release.config))
    image = config["vision_cfg"]
    text = config["text_cfg"]
    config["embed_dim"] //= NARROWER
    text |= dict(width=text["width"] // NARROWER, heads=2, layers=text["layers"] // SHORTER)
    text["vocab_size"] = 16 if "hf_tokenizer_name" in text else VOCABULARY
    if "eos_id" in text:
        text["eos_id"] = 3  # of the tokenizer that is written below
    if "timm_model_name" in image:
        build = timm.create_model
        small = _small_timm_tower(image)
    else:
        width = image["width"] // NARROWER
        build = timm.create_model
        small = {}
        image |= dict(width=width, head_width=width // 2, layers=image["layers"] // SHORTER)
        image["image_size"] = 2 * image["patch_size"]
    custom = config.pop("custom_text", False)
    with patch.object(timm, "create_model", lambda *a, **options: build(*a, **options | small)):
        build_model: Any = CustomTextCLIP if custom else CLIP
        model = build_model(**config)
    bias = model._parameters.pop("logit_bias", None)  # as the configuration has it
    randomise(model, seed=sum(map(ord, name)) % 10)
    model.logit_bias = bias
    side = image["image_size"]
    model.visual.preprocess_cfg = dict(size=side, mean=(0.5,) * 3, std=(0.25,) * 3)
    if "hf_tokenizer_name" not in text:
        return wrap(model, name)
    write_tokenizer(folder, "clip" if "eos_id" in text else "siglip")
    beside = {"text_cfg": text | dict(hf_tokenizer_name="beside")}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config | beside}))
    card = read_backbone(f"local-dir:{folder}")
    return Backbone(card.model_copy(update={"name": name}), model, torch.device("cpu"))


def _small_timm_tower(image: dict[str, Any]) -> dict[str, Any]:
    """Return settings of timm for a smaller tower of the same name."""
    name = image["timm_model_name"]
    with torch.device("meta"):
        whole: Any = timm.create_model(name)
    patch_size = whole.patch_embed.img_size[0] // whole.patch_embed.grid_size[0]
    image["image_size"] = 2 * patch_size
    small = dict(img_size=2 * patch_size, depth=len(whole.blocks) // SHORTER, num_heads=2)
    if name != CONVOLVED:
        small["embed_dim"] = whole.embed_dim // NARROWER
    return small


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    """All models, small and of random weights."""
    return {name: shrink(name, tmp_path_factory.mktemp(name)) for name in SIZES}


@pytest.mark.parametrize("name", SIZES)
def test_both_towers_equal_the_models_forward(name: str, models: dict[str, Backbone]) -> None:
    backbone = models[name]
    model: Any = backbone.model
    texts = ("a photo of a dog.", "tree")
    images = torch.randn(2, 3, *backbone.image_sides)
    close: dict[str, float] = dict(rtol=1e-4, atol=1e-4)
    own = model.encode_text(backbone.tokenizer(list(texts)))
    torch.testing.assert_close(backbone.text_features(texts), own, **close)
    for features in (backbone.encode_images(images), backbone.image.encode(images)):
        torch.testing.assert_close(features, model.encode_image(images), **close)
    assert backbone.logit_scale == pytest.approx(model.logit_scale.exp().item())
    if model.logit_bias is not None:  # equal for all classes, so it cancels in the softmax
        assert model.logit_bias.item() == -10
        _, _, scale, bias = model(images, backbone.tokenizer(list(texts)))
        assert scale.item() == pytest.approx(backbone.logit_scale)
        assert bias.item() == -10


def build(name: str) -> Method:
    """Return a method that acts in the first two blocks; all of the small towers have two."""
    kind = builtin_methods().get(name)
    settings = {}
    if "depth" in kind.Config.model_fields:
        settings["depth"] = 2
    return kind(kind.Config(**settings))


def start(method: Any, backbone: Backbone) -> Module:
    """Return the method's module before its first step."""
    data, _ = few_shots(backbone, LABELS, method.image_input(backbone))
    return method.init(backbone, data, torch.Generator().manual_seed(1))


def classify(method: Method, module: Module, backbone: Backbone) -> torch.Tensor:
    images = torch.randn(2, 3, *backbone.image_sides)
    inputs = backbone.encode_images(images, method.image_input(backbone))
    return method.attach(module, backbone, LABELS)(inputs)


def take(method: Method, backbone: Backbone) -> Module:
    """Return the method's module before its first step; check that gradients reach it."""
    module = start(method, backbone)
    learned = {name: tensor.detach().requires_grad_() for name, tensor in module.trained.items()}
    classify(method, Module(learned, module.stored), backbone).square().sum().backward()
    with_gradient = 0
    for tensor in learned.values():
        if tensor.grad is not None and tensor.grad.any():
            with_gradient += 1
    assert with_gradient > 0
    return module


def test_missing_projection_or_rows_make_a_method_not_transferable(
    models: dict[str, Backbone],
) -> None:
    for method, name, reason in (
        ("prolip", "siglip2-so400m16-384", "image tower has no 'proj'"),
        ("plot", "pe-core-b16", "pools by attention"),
        ("mmrl", "siglip-so400m14-384", "a causal text tower with start-of-text"),
    ):
        made = build(method)
        backbone = models[name]
        with pytest.raises(NotTransferable, match=reason):
            classify(made, start(made, backbone), backbone)


@pytest.mark.parametrize("upgrade", MOVES, ids=" to ".join)
def test_methods_that_transfer_are_those_of_the_page(
    upgrade: tuple[str, str], models: dict[str, Backbone]
) -> None:
    source = models[upgrade[0]]
    target = models[upgrade[1]]

    def answer(method: Method) -> str:
        if method.card.name == "maple" and target.name.startswith("siglip"):
            with pytest.raises(NotTransferable, match=NO_START):
                take(method, target)
        else:
            take(method, target)
        try:
            module = take(method, source)
        except NotTransferable:
            return "none"
        try:
            logits = classify(method, module, target)
        except NotTransferable as error:
            reason = re.search(r"was made for .* (width|size) \d+, not", str(error))
            return "no" if reason else "?"
        assert logits.isfinite().all()
        return "yes"

    assert [answer(build(name)) for name in METHODS] == MOVES[upgrade]


def test_page_lists_the_suite_and_plan_needs_no_weights() -> None:
    assert tuple(MOVES) == suite_cards.read("upgrades-2026").upgrades
    assert {*itertools.chain(*MOVES)} == {*SIZES}
    planned = cb.plan("upgrades-2026", ["zeroshot", "taskres"], tasks="dtd", seeds=1)
    assert {*planned.frame["method"]} == {"zeroshot", "taskres"}
    assert {*SIZES} <= {*planned.missing.backbones}
    assert (planned.frame["missing"] == planned.frame["cells"]).all()
