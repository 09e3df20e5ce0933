"""Files of Dassl's trainers: their modules classify as the formula says, and go back whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from image_reference import draw_images, run_image_tower, run_text_tower
from open_clip_reference import encode_contexts, encode_texts, text_tower
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import CompatbenchError
from compatbench.method import Module
from compatbench.method.checkpoint_reader import read_checkpoint
from compatbench.method.convert import export_checkpoint, recognise
from compatbench.method.registry import builtin_formats, builtin_methods

from .conftest import Importer
from .dassl_files import (
    WORDS,
    State,
    atprompt,
    cocoop,
    coop,
    dept,
    ivlp,
    kgcoop,
    maple,
    promptsrc,
    save_dassl,
    tcp,
    vpt,
)

Logits = Callable[[Backbone, Labels, State, Tensor], Tensor]


def cosine(backbone: Backbone, texts: Tensor, features: Tensor) -> Tensor:
    return backbone.logit_scale * F.normalize(features, dim=-1) @ F.normalize(texts, dim=-1).mT


def prompt_logits(backbone: Backbone, labels: Labels, state: State, images: Tensor) -> Tensor:
    features = backbone.encode_images(images)
    return cosine(backbone, encode_contexts(backbone, labels.names, state["ctx"]), features)


def atprompt_logits(backbone: Backbone, labels: Labels, state: State, images: Tensor) -> Tensor:
    words = [backbone.embed_text(word) for word in ("color", "shape")]
    parts = (state["ctx_att1"], words[0], state["ctx_att2"], words[1], state["ctx"])
    return prompt_logits(backbone, labels, {"ctx": torch.cat(parts)}, images)


def linear(state: State, layer: int, x: Tensor) -> Tensor:
    name = f"meta_net.linear{layer}"
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def cocoop_logits(backbone: Backbone, labels: Labels, state: State, images: Tensor) -> Tensor:
    rows = []
    for feature in F.normalize(backbone.encode_images(images), dim=-1):
        context = state["ctx"] + linear(state, 2, F.relu(linear(state, 1, feature)))
        texts = encode_contexts(backbone, labels.names, context)
        rows.append(cosine(backbone, texts, feature[None])[0])
    return torch.stack(rows)


def tcp_logits(backbone: Backbone, labels: Labels, state: State, images: Tensor) -> Tensor:
    tower = text_tower(backbone)
    teacher = encode_texts(backbone, labels.fill(labels.teacher_template))
    hidden = linear(state, 1, F.normalize(teacher, dim=-1))
    rows = linear(state, 2, hidden * torch.sigmoid(1.702 * hidden)).view(-1, 4, 32)
    hook = tower.transformer.resblocks[2].register_forward_pre_hook(
        lambda _, given: torch.cat([given[0][:, :1], rows, given[0][:, 5:]], dim=1)
    )
    names = [f"{name}, a type of thing" for name in labels.names]
    texts = encode_contexts(backbone, names, state["ctx"])
    hook.remove()
    return cosine(backbone, texts, backbone.encode_images(images))


def dept_logits(backbone: Backbone, labels: Labels, state: State, images: Tensor) -> Tensor:
    features = backbone.encode_images(images)
    moved = state["film_lp_img.scale"] * features + state["film_lp_img.bias"]
    head = moved @ state["linear_probe_proj.weight"].T + state["linear_probe_proj.bias"]
    prompts = {"ctx": state["prompt_learner.ctx"]}
    return 0.3 * prompt_logits(backbone, labels, prompts, images) + 0.7 * head


def tower_logits(backbone: Backbone, labels: Labels, state: State, images: Tensor) -> Tensor:
    """Of prompts in both towers, or in the image tower alone."""
    image = ["image_encoder.VPT", "image_encoder.transformer.resblocks.1.VPT_shallow"]
    text = [f"text_encoder.transformer.resblocks.{i}.VPT_shallow" for i in (1, 2)]
    features = run_image_tower(backbone.model.visual, images, [state[name] for name in image])
    if (first := state.get("prompt_learner.ctx")) is None:
        return cosine(backbone, encode_texts(backbone, labels.fill(f"{WORDS} {{}}.")), features)
    prompts = [first, *(state[name] for name in text)]
    return cosine(backbone, run_text_tower(backbone, labels.names, WORDS, prompts), features)


def maple_logits(backbone: Backbone, labels: Labels, state: State, images: Tensor) -> Tensor:
    own = {name.removeprefix("prompt_learner."): tensor for name, tensor in state.items()}
    text = [own["ctx"], own["compound_prompts_text.0"]]
    layers = ("proj", "compound_prompt_projections.0")
    image = [
        rows @ own[f"{layer}.weight"].T + own[f"{layer}.bias"]
        for rows, layer in zip(text, layers, strict=True)
    ]
    features = run_image_tower(backbone.model.visual, images, image)
    return cosine(backbone, run_text_tower(backbone, labels.names, WORDS, text), features)


CASES: dict[str, tuple[Callable[[Backbone, Labels], State], Logits]] = {
    "coop": (coop, prompt_logits),
    "kgcoop": (kgcoop, prompt_logits),
    "prograd": (coop, prompt_logits),
    "atprompt": (atprompt, atprompt_logits),
    "cocoop": (cocoop, cocoop_logits),
    "tcp": (tcp, tcp_logits),
    "dept": (dept, dept_logits),
    "maple": (maple, maple_logits),
    "ivlp": (ivlp, tower_logits),
    "promptsrc": (promptsrc, tower_logits),
    "vpt": (vpt, tower_logits),
}


def logits_of(module: Module, backbone: Backbone, labels: Labels, images: Tensor) -> Tensor:
    cls: Any = builtin_methods().get(module.about["method"])
    method = cls(cls.Config.model_validate(module.about["config"]))
    inputs = backbone.encode_images(images, method.image_input(backbone))
    with torch.no_grad():
        return method.attach(module, backbone, labels)(inputs)


@pytest.mark.parametrize("kind", CASES)
def test_a_file_classifies_as_the_formula_says_and_goes_back_whole(
    kind: str, tmp_path: Path, import_for_test: Importer, clip64: Backbone, labels: Labels
) -> None:
    make, expected = CASES[kind]
    state = make(clip64, labels)
    path = save_dassl(tmp_path / "dtd_16shots" / "seed2", state)
    module = import_for_test(kind, path)
    images = draw_images(clip64, 3)
    double = {name: tensor.double() for name, tensor in state.items()}
    with torch.no_grad():
        wanted = expected(clip64, labels, double, images)
    found = logits_of(module, clip64, labels, images)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert (module.about["shots"], module.about["seed"]) == (16, 2)
    told = "as given" if kind == "vpt" else "confirmed by the file"
    assert module.about["imported"]["classes and source"] == told
    # What the authors' loader takes of the file it would have taken of the first.
    [written], _ = export_checkpoint(kind, module, tmp_path / "back.pth.tar", None)
    again = read_checkpoint(written)
    assert again.tensors
    for name, tensor in again.tensors.items():
        torch.testing.assert_close(tensor.float(), state[name].float(), rtol=0, atol=1e-3)
    assert import_for_test(kind, written).fingerprint == logits_module(kind, module, again)


def logits_module(kind: str, module: Module, again: Any) -> str:
    """The fingerprint of a module after its tensors were written in one precision."""
    kinds = {tensor.dtype for tensor in again.tensors.values()}
    assert len(kinds) == 1
    [dtype] = kinds
    rounded = {name: tensor.to(dtype).double() for name, tensor in module.trained.items()}
    return Module(rounded).fingerprint


@pytest.mark.parametrize("kind", [kind for kind in CASES if kind != "prograd"])
def test_a_file_is_recognised_by_what_is_in_it(
    kind: str, tmp_path: Path, clip64: Backbone, labels: Labels
) -> None:
    save_dassl(tmp_path, CASES[kind][0](clip64, labels), "anything")
    assert recognise(read_checkpoint(tmp_path)) == [kind]  # the folder around the model's
    assert set(CASES) <= set(builtin_formats().classes)


def test_attributes_of_other_words_are_told(
    tmp_path: Path, import_for_test: Importer, clip64: Backbone, labels: Labels
) -> None:
    path = save_dassl(tmp_path, atprompt(clip64, labels))
    for words, line in (
        (["color", "size"], "another word than 'size' as attribute 2"),
        (["color"], "has 2 attributes, and --set attributes has 1"),
        (["color", "shape", "size"], "has 2 attributes, and --set attributes has 3"),
    ):
        with pytest.raises(CompatbenchError, match=line):
            import_for_test("auto", path, attributes=words)


@pytest.mark.parametrize("position", ["middle", "front"])
def test_contexts_of_each_class_and_positions_of_the_name(
    position: str, tmp_path: Path, import_for_test: Importer, clip64: Backbone, labels: Labels
) -> None:
    path = save_dassl(tmp_path, coop(clip64, labels, own=True))
    module = import_for_test("auto", path, position=position)
    assert module["context"].shape == (5, 4, 32)
    assert module.about["config"]["position"] == position
    assert module.about["config"]["class_specific"]
    [written], _ = export_checkpoint("coop", module, tmp_path / "back", None)
    state = read_checkpoint(written).tensors
    torch.testing.assert_close(state["ctx"], read_checkpoint(path).tensors["ctx"], rtol=0, atol=0)


def test_prompts_of_half_the_classes(
    tmp_path: Path, import_for_test: Importer, clip64: Backbone, labels: Labels
) -> None:
    state = coop(clip64, Labels(labels.names[:3], labels.templates, labels.teacher_template))
    path = save_dassl(tmp_path, state)
    with pytest.raises(CompatbenchError, match=r"'token_suffix' .* not 3; .*--classes base"):
        import_for_test("coop", path)
    base = import_for_test("coop", path, classes="base")
    assert base.about["classes"] == [0, 1, 2]
    assert import_for_test("coop", path, classes="all").about["classes"] is None
    with pytest.raises(CompatbenchError, match="not 3; give the task"):
        import_for_test("coop", path, classes="new")
    (tmp_path / "names.txt").write_text("dog\nred apple\nhippopotamus\n")
    with pytest.raises(CompatbenchError, match=r"has 'hippopotamus' as class 1 .*'red apple'"):
        import_for_test("coop", path, classes=str(tmp_path / "names.txt"))


@pytest.mark.parametrize(
    ("kind", "make", "source", "message"),
    [
        ("coop", coop, "stranger", "'ctx' is 4 × 32, but the width .* is 48, not 32; give the s"),
        ("coop", coop, "eva64", "no token embeddings of 'eva64'; give the source"),
        ("cocoop", coop, "clip64", "'meta_net.linear1.weight' is not there; the file holds ctx"),
        ("cocoop", tcp, "clip64", "has a network of 128 outputs, where cocoop has 32"),
        ("vpt", coop, "clip64", "'image_encoder.VPT' is not there"),
        ("nothing", coop, "clip64", "no format named 'nothing'"),
    ],
)
def test_a_file_of_another_kind_or_source(
    kind: str,
    make: Any,
    source: str,
    message: str,
    tmp_path: Path,
    import_for_test: Importer,
    sources: dict[str, Backbone],
    eva64: Backbone,
    clip64: Backbone,
    labels: Labels,
) -> None:
    sources["eva64"] = eva64
    path = save_dassl(tmp_path, make(clip64, labels))
    with pytest.raises(CompatbenchError, match=message) as error:
        import_for_test(kind, path, source)
    assert len(str(error.value).splitlines()) == 1
    assert kind == "nothing" or str(path) in str(error.value)


def test_class_names_in_another_order_and_of_another_task(
    tmp_path: Path, import_for_test: Importer, clip64: Backbone, labels: Labels
) -> None:
    def named(*names: str) -> Path:
        return save_dassl(tmp_path, coop(clip64, Labels(names, labels.templates, "")))

    with pytest.raises(CompatbenchError, match=r"has 'tree' as class 0 .* the task has 'dog'"):
        import_for_test("coop", named(*reversed(labels.names)))
    with pytest.raises(CompatbenchError, match=r"other words behind the context .* than 'dog'"):
        import_for_test("coop", named("cow", "sheep", "fork", "cup", "tree"))
    module = import_for_test("coop", named("a dog", *labels.names[1:]))
    assert module.about["imported"]["notes"] == ["the file has other words for 1 classes: 'dog'"]


def test_settings_are_those_of_the_method(
    tmp_path: Path, import_for_test: Importer, clip64: Backbone, labels: Labels
) -> None:
    path = save_dassl(tmp_path, coop(clip64, labels))
    with pytest.raises(CompatbenchError, match="setting 'alfa': 'coop' has no such setting"):
        import_for_test("coop", path, alfa=1)
    with pytest.raises(CompatbenchError, match="setting 'position': Input should be 'end'"):
        import_for_test("coop", path, position="left")
