"""Every format: a file classifies as the formula says, goes back whole, or is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from image_reference import run_image_tower, run_text_tower
from open_clip_reference import encode_contexts, encode_texts, text_tower
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import CompatbenchError
from compatbench.method import Module
from compatbench.method.checkpoint_reader import read_checkpoint
from compatbench.method.convert import export_module, recognise
from compatbench.method.registry import builtin_formats

from . import dassl_files, other_files
from .conftest import Desk
from .dassl_files import WORDS, State, atprompt, coop, save_dassl, tcp
from .other_files import (
    BIAS,
    EVERYWHERE,
    WEIGHT,
    low_rank,
    residuals,
    save,
    save_cache,
    save_head,
    save_peft,
)

CONFIRMED, GIVEN = "confirmed by the file", "as given"


def cosine(backbone: Backbone, texts: Tensor, features: Tensor) -> Tensor:
    return backbone.logit_scale * F.normalize(features, dim=-1) @ F.normalize(texts, dim=-1).mT


def prompt_logits(desk: Desk, state: State) -> Tensor:
    features = desk.backbone.encode_images(desk.images)
    texts = encode_contexts(desk.backbone, desk.labels.names, state["ctx"])
    return cosine(desk.backbone, texts, features)


def atprompt_logits(desk: Desk, state: State) -> Tensor:
    words = [desk.backbone.embed_text(word) for word in ("color", "shape")]
    parts = (state["ctx_att1"], words[0], state["ctx_att2"], words[1], state["ctx"])
    return prompt_logits(desk, {"ctx": torch.cat(parts)})


def linear(state: State, layer: int, x: Tensor) -> Tensor:
    name = f"meta_net.linear{layer}"
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def cocoop_logits(desk: Desk, state: State) -> Tensor:
    rows = []
    for feature in F.normalize(desk.backbone.encode_images(desk.images), dim=-1):
        context = state["ctx"] + linear(state, 2, F.relu(linear(state, 1, feature)))
        texts = encode_contexts(desk.backbone, desk.labels.names, context)
        rows.append(cosine(desk.backbone, texts, feature[None])[0])
    return torch.stack(rows)


def tcp_logits(desk: Desk, state: State) -> Tensor:
    backbone, labels = desk.backbone, desk.labels
    teacher = encode_texts(backbone, labels.fill(labels.teacher_template))
    hidden = linear(state, 1, F.normalize(teacher, dim=-1))
    rows = linear(state, 2, hidden * torch.sigmoid(1.702 * hidden)).view(-1, 4, 32)
    hook = (
        text_tower(backbone)
        .transformer.resblocks[2]
        .register_forward_pre_hook(
            lambda _, given: torch.cat([given[0][:, :1], rows, given[0][:, 5:]], dim=1)
        )
    )
    names = [f"{name}, a type of thing" for name in labels.names]
    texts = encode_contexts(backbone, names, state["ctx"])
    hook.remove()
    return cosine(backbone, texts, backbone.encode_images(desk.images))


def dept_logits(desk: Desk, state: State) -> Tensor:
    features = desk.backbone.encode_images(desk.images)
    moved = state["film_lp_img.scale"] * features + state["film_lp_img.bias"]
    head = moved @ state["linear_probe_proj.weight"].T + state["linear_probe_proj.bias"]
    return 0.3 * prompt_logits(desk, {"ctx": state["prompt_learner.ctx"]}) + 0.7 * head


def tower_logits(desk: Desk, state: State) -> Tensor:
    """Of prompts in both towers, or in the image tower alone."""
    backbone, labels = desk.backbone, desk.labels
    visual: Any = backbone.model.visual
    image = ["image_encoder.VPT", "image_encoder.transformer.resblocks.1.VPT_shallow"]
    text = [f"text_encoder.transformer.resblocks.{i}.VPT_shallow" for i in (1, 2)]
    features = run_image_tower(visual, desk.images, [state[name] for name in image])
    if (first := state.get("prompt_learner.ctx")) is None:
        return cosine(backbone, encode_texts(backbone, labels.fill(f"{WORDS} {{}}.")), features)
    prompts = [first, *(state[name] for name in text)]
    return cosine(backbone, run_text_tower(backbone, labels.names, WORDS, prompts), features)


def maple_logits(desk: Desk, state: State) -> Tensor:
    learner = {name.removeprefix("prompt_learner."): tensor for name, tensor in state.items()}
    text = [learner["ctx"], learner["compound_prompts_text.0"]]
    layers = ("proj", "compound_prompt_projections.0")
    image = [
        rows @ learner[f"{layer}.weight"].T + learner[f"{layer}.bias"]
        for rows, layer in zip(text, layers, strict=True)
    ]
    visual: Any = desk.backbone.model.visual
    features = run_image_tower(visual, desk.images, image)
    texts = run_text_tower(desk.backbone, desk.labels.names, WORDS, text)
    return cosine(desk.backbone, texts, features)


class Saved(NamedTuple):
    """A file or folder, and the logits of the desk's images that its module gives there."""

    path: Path
    logits: Callable[[], Tensor]


def of_dassl(
    make: Callable[[Backbone, Labels], State], logits: Callable[[Desk, State], Tensor]
) -> Callable[[Desk], Saved]:
    """A state dict, which a trainer of Dassl saves."""

    def write(desk: Desk) -> Saved:
        state = make(desk.backbone, desk.labels)
        path = save_dassl(desk.folder / "dtd_16shots" / "seed2", state)
        double = {name: tensor.double() for name, tensor in state.items()}
        return Saved(path, lambda: logits(desk, double))

    return write


def adapter_logits(desk: Desk, state: State) -> Tensor:
    features, (down, up) = desk.backbone.encode_images(desk.images), state.values()
    adapted = 0.6 * F.relu(F.relu(features @ down.T) @ up.T) + 0.4 * features
    return cosine(desk.backbone, encode_texts(desk.backbone, desk.labels.fill()), adapted)


def residual_logits(desk: Desk, state: State) -> Tensor:
    base, residual = state.values()
    features = desk.backbone.encode_images(desk.images)
    return cosine(desk.backbone, base + 0.7 * residual, features)


def cache(start: str) -> Callable[[Desk], Saved]:
    def write(desk: Desk) -> Saved:
        folder = desk.folder / "things_2shots" / "seed1"
        keys, values, trained = save_cache(folder)
        chosen = (keys if start == "keys" else trained).double()

        def logits() -> Tensor:
            backbone = desk.backbone
            features = F.normalize(backbone.encode_images(desk.images), dim=-1)
            weights = torch.exp(-(2.5 - 2.5 * features @ chosen.T))
            texts = encode_texts(backbone, desk.labels.fill())
            return cosine(backbone, texts, features) + 1.5 * weights @ values.double()

        return Saved(folder / f"{start}_2shots.pt", logits)

    return write


def updated_logits(desk: Desk, deltas: dict[tuple[str, int, str], Tensor]) -> Tensor:
    """Of a copy of the model with matrices added to q, k and v of its blocks."""
    model: Any = copy.deepcopy(desk.backbone.model)
    towers = {"text": model.transformer, "image": model.visual.transformer}
    for (tower, block, part), delta in deltas.items():
        start = "qkv".index(part) * 32
        towers[tower].resblocks[block].attn.in_proj_weight.data[start : start + 32] += delta
    texts = model.encode_text(desk.backbone.tokenizer(list(desk.labels.fill())))
    return cosine(desk.backbone, texts, model.encode_image(desk.images))


def updates(blocks: list[tuple[str, int]], encoder: str, **how: Any) -> Callable[[Desk], Saved]:
    """CLIP-LoRA's file of layers that are in these blocks."""

    def write(desk: Desk) -> Saved:
        content = low_rank(encoder, **how)
        scale = content["metadata"]["alpha"] / math.sqrt(2)
        deltas = {
            (*block, name[0]): scale * pair["w_lora_B"].double() @ pair["w_lora_A"].double()
            for block, layer in zip(blocks, content["weights"].values(), strict=True)
            for name, pair in layer.items()
        }
        path = save(desk.folder / "things" / "4shots" / "seed3" / "lora_weights.pt", content)
        return Saved(path, lambda: updated_logits(desk, deltas))

    return write


def peft(places: list[Any], scales: dict[int, float], **settings: Any) -> Callable[[Desk], Saved]:
    """PEFT's two files, with the factor of updates of each rank."""

    def write(desk: Desk) -> Saved:
        pairs = save_peft(desk.folder / "adapter", places, **settings)
        deltas = {
            place[:3]: scales[place[3]] * b.double() @ a.double() for place, (a, b) in pairs.items()
        }
        return Saved(desk.folder / "adapter", lambda: updated_logits(desk, deltas))

    return write


def head(name: str, normalised: bool = False, **arrays: Tensor) -> Callable[[Desk], Saved]:
    def write(desk: Desk) -> Saved:
        def logits() -> Tensor:
            features = desk.backbone.encode_images(desk.images)
            if normalised:
                return F.normalize(features, dim=-1) @ WEIGHT.double().T
            return features @ WEIGHT.double().T + BIAS.double()

        return Saved(save_head(desk.folder / name, **arrays), logits)

    return write


class Case(NamedTuple):
    """A file of a format, and what is known of its module.

    Attributes:
        recognised: the formats that the file may be of.
        back: what it is exported to; empty for a format that is not written.
        same: whether what is written has the tensors of the file, by the same names.
        draw: shots and seed, where the path tells them.
        close: how near logits come to the formula.
    """

    kind: str
    write: Callable[[Desk], Saved]
    settings: dict[str, Any] = {}
    told: str = GIVEN
    recognised: bool = True
    back: str = "back.pth.tar"
    same: bool = True
    draw: tuple[int | None, int | None] = (None, None)
    close: float = 1e-9


DASSL: dict[str, Any] = dict(told=CONFIRMED, draw=(16, 2))
TEXT, IMAGE = ([(tower, i) for i in range(n)] for tower, n in (("text", 3), ("image", 2)))
LORA: dict[str, Any] = dict(draw=(4, 3), close=1e-8)
CACHED: dict[str, Any] = dict(settings=dict(alpha=1.5, beta=2.5), draw=(2, 1), back="back")
TASKRES: dict[str, Any] = DASSL | dict(settings={"alpha": 0.7}, close=1e-4)  # the base is in single
MIXED = [("text", 0, "q", 4), ("text", 2, "v", 2)]
PATTERNS: Any = dict(rank_pattern={"layers.2.self_attn.v_proj": 2})
PATTERNS |= dict(alpha_pattern={"text_model.encoder.layers.2.self_attn.v_proj": 6})
SKLEARN = dict(coef=WEIGHT, intercept=BIAS)
PAIR = dict(weight=WEIGHT, bias=BIAS)

CASES = {
    "coop": Case("coop", of_dassl(coop, prompt_logits), **DASSL),
    "prograd": Case("prograd", of_dassl(coop, prompt_logits), recognised=False, **DASSL),
    "kgcoop": Case("kgcoop", of_dassl(dassl_files.kgcoop, prompt_logits), **DASSL),
    "atprompt": Case("atprompt", of_dassl(atprompt, atprompt_logits), **DASSL),
    "cocoop": Case("cocoop", of_dassl(dassl_files.cocoop, cocoop_logits), **DASSL),
    "tcp": Case("tcp", of_dassl(tcp, tcp_logits), **DASSL),
    "dept": Case("dept", of_dassl(dassl_files.dept, dept_logits), **DASSL),
    "maple": Case("maple", of_dassl(dassl_files.maple, maple_logits), **DASSL),
    "ivlp": Case("ivlp", of_dassl(dassl_files.ivlp, tower_logits), **DASSL),
    "promptsrc": Case("promptsrc", of_dassl(dassl_files.promptsrc, tower_logits), **DASSL),
    "vpt": Case("vpt", of_dassl(dassl_files.vpt, tower_logits), draw=(16, 2)),
    "clip_adapter": Case(
        "clip_adapter", of_dassl(lambda *_: other_files.adapter(), adapter_logits),
        {"ratio": 0.6}, draw=(16, 2),
    ),
    "taskres": Case("taskres", of_dassl(residuals, residual_logits), **TASKRES),
    "taskres, all templates": Case(
        "taskres", of_dassl(lambda *on: residuals(*on, slice(None)), residual_logits), **TASKRES
    ),
    "tip_adapter": Case("tip_adapter", cache("keys"), **CACHED),
    "tip_adapter_f": Case("tip_adapter_f", cache("best_F"), **CACHED),
    "clip_lora": Case("clip_lora", updates([*TEXT, *IMAGE], "both"), **LORA),
    "clip_lora, q and v": Case(
        "clip_lora", updates(TEXT, "text", parts="qv", alpha=4), same=False, **LORA
    ),
    "clip_lora, images": Case("clip_lora", updates(IMAGE, "vision"), **LORA),
    "clip_lora, last": Case(
        "clip_lora", updates(TEXT[2:], "text", layers=1, position="up"), same=False, **LORA
    ),
    "peft": Case("peft", peft(EVERYWHERE, {4: 8 / 4}), back="back", close=1e-8),
    "peft, stable": Case(
        "peft", peft(EVERYWHERE, {4: 8 / math.sqrt(4)}, use_rslora=True), back="back", close=1e-8
    ),
    "peft, patterns": Case(
        "peft", peft(MIXED, {4: 8 / 4, 2: 6 / 2}, **PATTERNS), back="back", same=False, close=1e-8
    ),
    "linear, npz": Case("linear", head("head.npz", **SKLEARN), back="back.npz", close=1e-7),
    "linear, pt": Case("linear", head("head.pt", **PAIR), close=1e-7),
    "linear, safetensors": Case(
        "linear", head("head.safetensors", **PAIR), back="back.safetensors", close=1e-7
    ),
    "linear_normalized": Case(
        "linear_normalized", head("h.pt", normalised=True, weight=WEIGHT),
        recognised=False, back="", close=1e-7,
    ),
}  # fmt: skip


def test_every_format_has_a_case() -> None:
    assert {case.kind for case in CASES.values()} == set(builtin_formats().classes)


@pytest.mark.parametrize("name", CASES)
def test_a_file_classifies_as_the_formula_says_and_goes_back_whole(name: str, desk: Desk) -> None:
    case = CASES[name]
    saved = case.write(desk)
    assert (recognise(read_checkpoint(saved.path)) == [case.kind]) == case.recognised
    module = desk.import_file(case.kind, saved.path, **case.settings)
    with torch.no_grad():
        wanted = saved.logits()
    found = desk.logits(module)
    torch.testing.assert_close(found, wanted, rtol=case.close, atol=case.close)
    about = module.about
    assert (about.get("shots"), about.get("seed")) == case.draw
    assert about["imported"]["classes and source"] == case.told
    if not case.back:
        return
    written = export_module(case.kind, module, desk.folder / case.back).files
    # What the authors' loader takes of the files it would have taken of the first.
    files = {path.name: path for path in saved.path.parent.glob("*_2shots.pt")}
    for path in written:
        if not case.same or path.name.startswith("keys_") or path.suffix == ".json":
            continue
        known = read_checkpoint(files.get(path.name, saved.path)).tensors
        again = read_checkpoint(path).tensors
        assert again
        for key in again.keys() - {"classes"}:
            before = known[key if key in known else f"fc.{key}"]
            assert torch.equal(again[key], before.to(again[key].dtype)), key
    target = {1: written[0]}.get(len(written), desk.folder / case.back)
    target = target / saved.path.name if case.kind.startswith("tip_adapter") else target
    again = desk.import_file(case.kind, target, **case.settings)
    dtype = getattr(torch, again.about["imported"]["dtype"])
    parts = (
        {n: t.to(dtype).double() for n, t in part.items()}
        for part in (module.trained, module.stored)
    )
    wanted = desk.logits(Module(*parts, again.about))
    torch.testing.assert_close(desk.logits(again), wanted, rtol=0, atol=1e-4)


def test_classes_of_a_linear_head(desk: Desk) -> None:
    path, names = desk.folder / "head.npz", desk.labels.names
    three = dict(coef=WEIGHT[:3], intercept=BIAS[:3])
    module = desk.import_file("linear", save_head(path, **three, classes=[4, 0, 2]))
    assert torch.equal(module["weight"][[4, 0, 2]].float(), WEIGHT[:3])
    assert module["bias"][1] < -1000
    by_name = save_head(path, **three, classes=[names[label] for label in (4, 0, 2)])
    assert desk.import_file("linear", by_name).fingerprint == module.fingerprint
    two = save_head(path, coef=WEIGHT[:1], intercept=BIAS[:1])  # as scikit-learn keeps two classes
    (desk.folder / "names.txt").write_text("dog\ntree\n")
    module = desk.import_file("linear", two, classes=str(desk.folder / "names.txt"))
    for name, row in (("weight", WEIGHT[0]), ("bias", BIAS[0])):
        assert torch.equal((module[name][1] - module[name][0]).float(), row)


@pytest.mark.parametrize("position", ["middle", "front"])
def test_contexts_of_each_class_and_positions_of_the_name(position: str, desk: Desk) -> None:
    path = save_dassl(desk.folder, coop(desk.backbone, desk.labels, own=True))
    module = desk.import_file("auto", path, position=position)
    assert module["context"].shape == (5, 4, 32)
    assert module.about["config"]["position"] == position
    assert module.about["config"]["class_specific"]
    [written], _ = export_module("coop", module, desk.folder / "back")
    state, known = (read_checkpoint(each).tensors["ctx"] for each in (written, path))
    assert torch.equal(state, known)


def renamed(desk: Desk, *names: str) -> Path:
    """CoOp's file for a task of these classes."""
    labels = Labels(names, desk.labels.templates, desk.labels.teacher_template)
    return save_dassl(desk.folder, coop(desk.backbone, labels))


def test_prompts_of_half_the_classes_and_of_other_words(desk: Desk) -> None:
    names = desk.labels.names
    path = renamed(desk, *names[:3])
    assert desk.import_file("coop", path, classes="base").about["classes"] == [0, 1, 2]
    assert desk.import_file("coop", path, classes="all").about["classes"] is None
    module = desk.import_file("coop", renamed(desk, "a dog", *names[1:]))
    assert module.about["imported"]["notes"] == ["the file has other words for 1 classes: 'dog'"]


def dassl(make: Callable[[Backbone, Labels], State]) -> Callable[[Desk], Path]:
    return lambda desk: save_dassl(desk.folder, make(desk.backbone, desk.labels))


def named(*names: str) -> Callable[[Desk], Path]:
    return lambda desk: renamed(desk, *names)


def listed(desk: Desk) -> Path:
    (desk.folder / "names.txt").write_text("dog\nred apple\nhippopotamus\n")
    return renamed(desk, *desk.labels.names[:3])


def half(desk: Desk) -> Path:
    return renamed(desk, *desk.labels.names[:3])


def reversed_residuals(desk: Desk) -> Path:
    labels = Labels(tuple(reversed(desk.labels.names)), desk.labels.templates, "")
    return save_dassl(desk.folder, residuals(desk.backbone, labels))


def two_shots(classes: int = 5, values: Tensor | None = None, gone: bool = False) -> Any:
    """Tip-Adapter's folder, with other values or without."""

    def write(desk: Desk) -> Path:
        save_cache(desk.folder, classes)
        path = desk.folder / "values_2shots.pt"
        if values is not None:
            torch.save(values, path)
        if gone:
            path.unlink()
        return desk.folder

    return write


def lora(encoder: str, **how: Any) -> Callable[[Desk], Path]:
    return lambda desk: save(desk.folder / "lora_weights.pt", low_rank(encoder, **how))


def untold(desk: Desk) -> Path:
    content = low_rank("text") | {"metadata": {"r": 2}}
    return save(desk.folder / "lora_weights.pt", content)


def of_peft(places: list[Any], **settings: Any) -> Callable[[Desk], Path]:
    def write(desk: Desk) -> Path:
        save_peft(desk.folder, places, **settings)
        return desk.folder

    return write


def without_settings(desk: Desk) -> Path:
    save_peft(desk.folder, EVERYWHERE)
    (desk.folder / "adapter_config.json").unlink()
    return desk.folder


def three_rows(classes: Any = None) -> Callable[[Desk], Path]:
    arrays = dict(coef=WEIGHT[:3], intercept=BIAS[:3])
    arrays |= {} if classes is None else {"classes": classes}
    return lambda desk: save_head(desk.folder / "head.npz", **arrays)


BOTH = dict(alpha=1, beta=1)
REFUSED: list[tuple[str, Callable[[Desk], Path], dict[str, Any], str]] = [
    # another source, or a file of another format
    ("coop", dassl(coop), {"source": "stranger"},
     "'ctx' is 4 × 32, but the width .* is 48, not 32; give the s"),
    ("coop", dassl(coop), {"source": "eva64"}, "no token embeddings of 'eva64'; give the source"),
    ("cocoop", dassl(coop), {}, "'meta_net.linear1.weight' is not there; the file holds ctx"),
    ("cocoop", dassl(tcp), {}, "has a network of 128 outputs, where cocoop has 32"),
    ("vpt", dassl(coop), {}, "'image_encoder.VPT' is not there"),
    ("auto", dassl(lambda *_: {"ctx_of_mine": torch.ones(2)}), {}, "of no format that is recogn"),
    # settings
    ("coop", dassl(coop), {"alfa": 1}, "setting 'alfa': 'coop' has no such setting"),
    ("coop", dassl(coop), {"position": "left"}, "setting 'position': Input should be 'end'"),
    ("atprompt", dassl(atprompt), {"attributes": ["color", "size"]},
     "another word than 'size' as attribute 2"),
    ("atprompt", dassl(atprompt), {"attributes": ["color"]},
     "has 2 attributes, and --set attributes has 1"),
    ("atprompt", dassl(atprompt), {"attributes": ["color", "shape", "size"]},
     "has 2 attributes, and --set attributes has 3"),
    ("taskres", dassl(residuals), {}, r"does not hold 'alpha'.*RESIDUAL_SCALE"),
    ("tip_adapter", two_shots(), {}, "does not hold 'alpha'.*--set alpha=NUMBER"),
    ("tip_adapter", two_shots(), {"alpha": 1}, "does not hold 'beta'"),
    ("tip_adapter", two_shots(), {"alpha": "much", "beta": 1}, "does not hold 'alpha'"),
    # other classes
    ("coop", half, {}, r"'token_suffix' .* not 3; .*--classes base"),
    ("coop", half, {"classes": "new"}, "not 3; give the task"),
    ("coop", listed, {"classes": "names.txt"}, r"has 'hippopotamus' as class 1 .*'red apple'"),
    ("coop", named("tree", "xylophone", "red apple", "hippopotamus", "dog"), {},
     r"has 'tree' as class 0 .* the task has 'dog'"),
    ("coop", named("cow", "sheep", "fork", "cup", "tree"), {},
     r"other words behind the context .* than 'dog'"),
    ("taskres", reversed_residuals, {"alpha": 1}, "another text than ours for class 0, 'dog'"),
    # caches
    ("tip_adapter", two_shots(), {"source": "stranger", **BOTH},
     r"keys_2shots.pt is 16 × 10, but .* is 24, not 16"),
    ("tip_adapter_f", two_shots(), BOTH, r"is not named best_F_...shots.pt"),
    ("tip_adapter", two_shots(3), BOTH, r"values_2shots.pt is 6 × 3, .*--classes base"),
    ("tip_adapter", two_shots(values=torch.zeros(8, 5)), BOTH,
     r"values_2shots.pt is 8 × 5, but .* has 10, not 8"),
    ("tip_adapter", two_shots(gone=True), BOTH, r"values_2shots.pt: No such file"),
    # low-rank updates
    ("clip_lora", lora("both", parts="qo"), {},
     "changes the output projection .*'clip_lora' does not"),
    ("clip_lora", lora("text", layers=2), {},
     "has 2 layers, and 'clip64' has 3 at its position 'all'"),
    ("clip_lora", lora("text", position="odd"), {},
     "names the position 'odd', which is not known"),
    ("clip_lora", untold, {}, "has no 'metadata' with alpha and encoder"),
    ("peft", of_peft(EVERYWHERE, use_dora=True), {},
     "has 'use_dora': True in its settings, which is not imported"),
    ("peft", of_peft(EVERYWHERE, peft_type="IA3"), {}, "has 'peft_type': 'IA3'"),
    ("peft", of_peft(EVERYWHERE, init_lora_weights="pissa"), {}, "'init_lora_weights': 'pissa'"),
    ("peft", of_peft(EVERYWHERE, modules_to_save=["visual_projection"]), {}, "'modules_to_save'"),
    ("peft", of_peft(EVERYWHERE, lora_alpha=None), {}, "does not hold 'lora_alpha'"),
    ("peft", of_peft([("text", 0, "out", 4)]), {},
     r"changes 'text_model.*out_proj', and 'clip_lora' changes q"),
    ("peft", of_peft([("image", 2, "q", 4)]), {}, "changes block 2 of 2; give its own source"),
    ("peft", without_settings, {}, r"cannot read .*adapter_config.json"),
    # linear heads
    ("linear", three_rows([9, 0, 1]), {}, "has '9', which is not a class of the task in 'classes'"),
    ("linear", three_rows(["dog", "cow", "tree"]), {}, "has 'cow', which is not a class"),
    ("linear", three_rows([1, 1, 0]), {}, "has a class twice in 'classes'"),
    ("linear", three_rows([1, 0]), {}, "has 3 rows and 2 'classes'"),
    ("linear", three_rows(), {}, "'coef' is 3 × 16, but the number of classes of"),
    ("linear_normalized", lambda desk: save_head(desk.folder / "h.pt", **PAIR), {},
     "has a bias, which no method on normalised"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "write", "how", "message"), REFUSED)
def test_what_does_not_fit_is_told_in_a_line_that_names_the_file(
    kind: str, write: Callable[[Desk], Path], how: dict[str, Any], message: str, desk: Desk
) -> None:
    path = write(desk)
    if how.get("classes") == "names.txt":
        how = how | {"classes": str(desk.folder / "names.txt")}
    with pytest.raises(CompatbenchError, match=message) as error:
        desk.import_file(kind, path, **how)
    assert len(str(error.value).splitlines()) == 1
    assert str(path) in str(error.value)
