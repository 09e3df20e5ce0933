"""Every format: a file is imported as its module and exported again, or it is refused."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from image_reference import draw_images
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import CompatbenchError
from compatbench.method import Module, convert
from compatbench.method.checkpoint_reader import read_checkpoint
from compatbench.method.convert import export_module, recognise
from compatbench.method.registry import builtin_formats, builtin_methods, find_format

from . import files_of_authors as files
from .files_of_authors import BIAS, EVERYWHERE, LEARNED, WEIGHT, save_dassl

CONFIRMED = "confirmed by the file"
NOT_POSITION = "confirmed by the file, but not position"
GIVEN = "as given"
OF_THE_FILE = ("templates", "class_specific")  # settings that are read from the file

STACKED = ("attribute_context", "coupling_bias", "coupling_weight", "image_prompts", "text_prompts")


@dataclass(frozen=True)
class Desk:
    """A folder, and a source and a task of five classes for the files in it."""

    folder: Path
    backbone: Backbone
    labels: Labels

    def import_file(
        self, kind: str, path: Path, source: str = "clip64", classes: Any = None, **settings: Any
    ) -> Module:
        """Return the module of a file."""
        how = {"settings": settings, "classes": classes}
        return convert.import_module(kind, path, "things", source, **how)


@pytest.fixture
def desk(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: Labels) -> Desk:
    """A desk with tiny sources; no card is read."""
    monkeypatch.setattr(convert, "load_backbone", lambda name, _: request.getfixturevalue(name))
    monkeypatch.setattr(convert, "task_labels", lambda name: labels)
    return Desk(tmp_path, request.getfixturevalue("clip64"), labels)


Held = Mapping[str, Tensor]
"""The tensors of a module by name; for low-rank updates the matrices that they add to a tower,
``[blocks, 3, d, d]``."""
Write = Callable[[Desk], tuple[Path, Held]]
"""Writes a file or a folder, and returns the tensors of its module."""


def held_by(module: Module) -> Held:
    """Return the tensors of a module, in the precision in which they were computed."""
    held = {}
    for tower in ("text", "image"):
        if f"{tower}_a" in module.trained:
            config = module.about["config"]
            scale = config["alpha"] / math.sqrt(config["rank"])
            held[tower] = scale * module[f"{tower}_b"] @ module[f"{tower}_a"]
    return held or module.tensors


def of_dassl(kind: str, *names: str, **how: Any) -> Write:
    """Write the state dict of a trainer of Dassl, for the task's classes or these."""

    def write(desk: Desk) -> tuple[Path, Held]:
        labels = replace(desk.labels, names=names) if names else desk.labels
        state = files.dassl(kind, desk.backbone, labels, **how)
        path = save_dassl(desk.folder / "dtd_16shots" / "seed2", state)
        held = {}
        for name, keys in LEARNED[kind].items():
            tensors = [state[key] for key in keys]
            held[name] = torch.stack(tensors) if name in STACKED else tensors[0]
        return path, held

    return write


def cache(start: str) -> Write:
    """Write Tip-Adapter's files, and choose ``<start>_2shots.pt``."""

    def write(desk: Desk) -> tuple[Path, Held]:
        folder = desk.folder / "things_2shots" / "seed1"
        keys, values, trained = files.save_cache(folder)
        chosen = {"keys": keys if start == "keys" else trained, "values": values}
        numbers = {"alpha": torch.tensor(1.5), "beta": torch.tensor(2.5)}
        return folder / f"{start}_2shots.pt", chosen | numbers

    return write


def matrices(deltas: Mapping[tuple[str, int, str], Tensor]) -> Held:
    """Return the matrices by tower, with zeros for those that are missing."""
    depths = {"text": 3, "image": 2}
    whole: dict[str, Tensor] = {}
    for (tower, block, part), delta in deltas.items():
        if tower not in whole:
            whole[tower] = torch.zeros(depths[tower], 3, 32, 32).double()
        whole[tower][block, "qkv".index(part)] = delta
    return whole


def updates(encoder: str, blocks: Sequence[tuple[str, int]] = (), **how: Any) -> Write:
    """Write CLIP-LoRA's file; its layers are those of these blocks."""

    def write(desk: Desk) -> tuple[Path, Held]:
        content = files.low_rank(encoder, **how)
        scale = content["metadata"]["alpha"] / math.sqrt(2)
        deltas = {}
        for (tower, block), layer in zip(blocks, content["weights"].values(), strict=False):
            for name, pair in layer.items():
                product = pair["w_lora_B"].double() @ pair["w_lora_A"].double()
                deltas[tower, block, name[0]] = scale * product
        path = files.save(desk.folder / "things" / "4shots" / "seed3" / "lora_weights.pt", content)
        return path, matrices(deltas)

    return write


def peft(places: list[Any], scales: Mapping[int, float] = {}, **settings: Any) -> Write:
    """Write PEFT's two files; ``scales`` has the factor of updates of each rank."""

    def write(desk: Desk) -> tuple[Path, Held]:
        folder = desk.folder / "adapter"
        pairs = files.save_peft(folder, places, **settings)
        if not scales:  # the file is refused
            return folder, {}
        deltas = {}
        for (tower, block, part, rank), (a, b) in pairs.items():
            deltas[tower, block, part] = scales[rank] * b.double() @ a.double()
        return folder, matrices(deltas)

    return write


def head(name: str, **arrays: Any) -> Write:
    """Write a linear head."""

    def write(desk: Desk) -> tuple[Path, Held]:
        return files.save_head(desk.folder / name, **arrays), {"weight": WEIGHT, "bias": BIAS}

    return write


class Case(NamedTuple):
    """A file of a format, and the expected module.

    Attributes:
        settings: settings of the module; all but those of ``OF_THE_FILE`` have to be given.
        recognised: True if the format is recognised by the contents.
        back: name of the file or folder to which the module is exported.
        same: True if the exported file has the tensors of the first one, by the same names.
        draw: shots and seed, if the path contains them.
    """

    kind: str
    write: Write
    settings: dict[str, Any] = {}
    told: str = GIVEN
    recognised: bool = True
    back: str = "back.pth.tar"
    same: bool = True
    draw: tuple[int | None, int | None] = (None, None)


DASSL: dict[str, Any] = dict(told=CONFIRMED, draw=(16, 2))
TEXT = [("text", block) for block in range(3)]
IMAGE = [("image", block) for block in range(2)]
LORA: dict[str, Any] = dict(draw=(4, 3))
CACHED: dict[str, Any] = dict(settings=dict(alpha=1.5, beta=2.5), draw=(2, 1), back="back")
TASKRES: dict[str, Any] = DASSL | dict(settings={"alpha": 0.7})
MIXED = [("text", 0, "q", 4), ("text", 2, "v", 2)]
PATTERNS: Any = dict(rank_pattern={"layers.2.self_attn.v_proj": 2})
PATTERNS |= dict(alpha_pattern={"text_model.encoder.layers.2.self_attn.v_proj": 6})
EXPRESSIONS: Any = dict(rank_pattern={r"layers\.2\..*": 2})
EXPRESSIONS |= dict(alpha_pattern={r"layers\.1": 9, r".*\.layers\.[12]\.self_attn\..*": 6})
SKLEARN = dict(coef=WEIGHT, intercept=BIAS)
PAIR = dict(weight=WEIGHT, bias=BIAS)
OF_WISE_FT = {f"classification_head.{name}": tensor for name, tensor in PAIR.items()}
CASES = {
    **{kind: Case(kind, of_dassl(kind), **DASSL) for kind in LEARNED},
    "coop, own contexts, names middle": Case(
        "coop", of_dassl("coop", own=True), dict(position="middle", class_specific=True), **DASSL
    ),
    "coop, own contexts, names front": Case(
        "coop", of_dassl("coop", own=True), dict(position="front", class_specific=True), **DASSL
    ),
    **{
        kind: Case(kind, of_dassl(kind), **DASSL | dict(told=NOT_POSITION))
        for kind in ("coop", "kgcoop")
    },
    "prograd": Case(
        "prograd", of_dassl("prograd"), recognised=False, **DASSL | dict(told=NOT_POSITION)
    ),
    "vpt": Case("vpt", of_dassl("vpt"), draw=(16, 2)),
    "clip_adapter": Case("clip_adapter", of_dassl("clip_adapter"), {"ratio": 0.6}, draw=(16, 2)),
    "taskres": Case("taskres", of_dassl("taskres"), **TASKRES),
    "taskres, all templates": Case(
        "taskres", of_dassl("taskres", templates=slice(None)),
        **TASKRES | dict(settings={"alpha": 0.7, "templates": "all"}),
    ),
    "tip_adapter": Case("tip_adapter", cache("keys"), **CACHED),
    "tip_adapter_f": Case("tip_adapter_f", cache("best_F"), **CACHED),
    "clip_lora": Case("clip_lora", updates("both", [*TEXT, *IMAGE]), **LORA),
    "clip_lora, q and v": Case(
        "clip_lora", updates("text", TEXT, parts="qv", alpha=4), same=False, **LORA
    ),
    "clip_lora, images": Case("clip_lora", updates("vision", IMAGE), **LORA),
    "clip_lora, last": Case(
        "clip_lora", updates("text", TEXT[2:], layers=1, position="up"), same=False, **LORA
    ),
    "clip_lora, first": Case(
        "clip_lora", updates("both", [TEXT[0], IMAGE[0]], layers=2, position="half-bottom"),
        same=False, **LORA
    ),
    "peft": Case("peft", peft(EVERYWHERE, {4: 8 / 4}), back="back"),
    "peft, stable": Case(
        "peft", peft(EVERYWHERE, {4: 8 / math.sqrt(4)}, use_rslora=True), back="back"
    ),
    "peft, patterns": Case(
        "peft", peft(MIXED, {4: 8 / 4, 2: 6 / 2}, **PATTERNS), back="back", same=False
    ),
    "peft, regular expressions": Case(
        "peft", peft(MIXED, {4: 8 / 4, 2: 6 / 2}, **EXPRESSIONS), back="back", same=False
    ),
    "linear, npz": Case("linear", head("head.npz", **SKLEARN), back="back.npz"),
    "linear, pt": Case("linear", head("head.pt", **PAIR)),
    "linear, safetensors": Case(
        "linear", head("head.safetensors", **PAIR), back="back.safetensors"
    ),
    "linear_normalized": Case("linear_normalized", head("h.pt", **PAIR), recognised=False),
    "linear_normalized, npz": Case(
        "linear_normalized", head("h.npz", **SKLEARN), recognised=False, back="back.npz"
    ),
    "linear_normalized, WiSE-FT": Case(
        "linear_normalized", head("h.pt", **OF_WISE_FT), same=False
    ),
}  # fmt: skip


def test_every_format_has_a_case() -> None:
    whole = {"peft_layers", "clip", "wise_ft_weights"}  # have separate tests
    assert {case.kind for case in CASES.values()} | whole == set(builtin_formats().classes)


@pytest.mark.parametrize("name", CASES)
def test_imported_module_has_the_tensors_of_the_file_and_exports_them(
    name: str, desk: Desk
) -> None:
    case = CASES[name]
    saved, wanted = case.write(desk)
    wanted = {name: tensor.double() for name, tensor in wanted.items()}
    assert (recognise(read_checkpoint(saved)) == [case.kind]) == case.recognised
    asked = dict(case.settings)
    for setting in OF_THE_FILE:
        asked.pop(setting, None)
    module = desk.import_file(case.kind, saved, **asked)
    torch.testing.assert_close({**held_by(module)}, wanted, rtol=1e-9, atol=1e-9)
    about = module.about
    assert about["config"] == about["config"] | case.settings
    assert (about.get("shots"), about.get("seed")) == case.draw
    assert about["imported"]["classes and source"] == case.told
    written = export_module(case.kind, module, desk.folder / case.back).files
    # The authors' loader finds the same tensors in the exported files.
    given = {path.name: path for path in saved.parent.glob("*_2shots.pt")}
    for path in written:
        if not case.same or path.name.startswith("keys_") or path.suffix == ".json":
            continue
        known = read_checkpoint(given.get(path.name, saved)).tensors
        again = read_checkpoint(path).tensors
        assert again
        for key in again.keys() - {"classes"}:
            before = known[key if key in known else f"fc.{key}"]
            assert torch.equal(again[key], before.to(again[key].dtype)), key
    target = desk.folder / case.back
    if len(written) == 1:
        target = written[0]
    elif case.kind.startswith("tip_adapter"):
        target = target / saved.name
    # An import reads only the file and those that its format lists.
    path = read_checkpoint(target).path
    for other in set(written) - {path, *find_format(case.kind).list_beside(path)}:
        other.unlink()
    again = desk.import_file(case.kind, target, **asked)
    torch.testing.assert_close({**held_by(again)}, wanted, rtol=1e-3, atol=1e-4)


def test_linear_head_follows_its_class_names(desk: Desk) -> None:
    path = desk.folder / "head.npz"
    names = desk.labels.names
    three = dict(coef=WEIGHT[:3], intercept=BIAS[:3])
    module = desk.import_file("linear", files.save_head(path, **three, classes=[4, 0, 2]))
    assert torch.equal(module["weight"][[4, 0, 2]].float(), WEIGHT[:3])
    assert module["bias"][1] < -1000
    by_name = files.save_head(path, **three, classes=[names[4], names[0], names[2]])
    assert desk.import_file("linear", by_name).fingerprint == module.fingerprint
    # As scikit-learn keeps two classes.
    one = dict(coef=WEIGHT[:1], intercept=BIAS[:1])
    for order, stored in (
        (["dog", "tree"], {}),
        (["dog", "tree"], {"classes": ["dog", "tree"]}),
        (["tree", "dog"], {"classes": ["dog", "tree"]}),
    ):
        (desk.folder / "names.txt").write_text("\n".join(order))
        two = files.save_head(path, **one, **stored)
        module = desk.import_file("linear", two, classes=str(desk.folder / "names.txt"))
        dog = order.index("dog")
        for name, row in (("weight", WEIGHT[0]), ("bias", BIAS[0])):
            assert torch.equal((module[name][1 - dog] - module[name][dog]).float(), row)
        notes = module.about["imported"]["notes"]
        assert ("does not name its classes" in notes[0]) == (stored == {})


def tuned(backbone: Backbone) -> Any:
    """Return a copy of the model with other weights."""
    model = copy.deepcopy(backbone.model)
    generator = torch.Generator().manual_seed(5)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and bool(tensor.isfinite().all()):
            tensor += 0.02 * torch.randn(tensor.shape, generator=generator)
    return model


@pytest.mark.parametrize(
    ("source", "start"),
    [("clip64", "module."), ("clip64", "model."), ("clip64", ""), ("eva64", "model.")],
)
def test_fully_fine_tuned_clip_gives_its_own_logits(source: str, start: str, desk: Desk) -> None:
    """The module computes the logits of the tuned model: towers, embeddings and scale."""
    backbone = convert.load_backbone(source, "cpu")
    model = tuned(backbone)
    renamed = {f"{start}{name}": tensor for name, tensor in model.state_dict().items()}
    path = files.save(desk.folder / "epoch_5.pt", {"epoch": 5, "state_dict": renamed})
    module = desk.import_file("auto", path, source)
    assert module.about["method"] == "flyp"
    method = builtin_methods().get("flyp")()
    images = draw_images(backbone, 3)
    with torch.no_grad():
        found = method.attach(module, backbone, desk.labels)(images)
        templates = desk.labels.templates
        texts = []
        for template in templates:
            texts += desk.labels.fill(template)
        tokens = backbone.tokenizer(texts)
        weights = F.normalize(model.encode_text(tokens), dim=-1)
        weights = weights.unflatten(0, (len(templates), -1))
        weights = F.normalize(weights.mean(0), dim=-1)
        wanted = F.normalize(model.encode_image(images), dim=-1) @ weights.T
        apart = desk.import_file("wise_ft_weights", path, source)
        method = builtin_methods().get("wise_ft_weights")()
        other = method.attach(apart, backbone, desk.labels)(images)
        first = F.normalize(model.encode_text(tokens[: len(desk.labels)]), dim=-1)
        plain = F.normalize(model.encode_image(images), dim=-1) @ first.T
    torch.testing.assert_close(found, model.logit_scale.exp() * wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other, model.logit_scale.exp() * plain, rtol=1e-7, atol=1e-7)
    state = model.state_dict()
    state[next(iter(state))] = torch.full_like(next(iter(state.values())), torch.nan)
    with pytest.raises(CompatbenchError, match="that are NaN or infinite"):
        desk.import_file("clip", files.save(path, state), source)


def test_peft_adapter_of_every_linear_layer_gives_its_own_logits(desk: Desk) -> None:
    """PEFT names the layers of transformers' CLIPModel; each update is added to its weight."""
    source = convert.load_backbone("clip64", "cpu")
    generator = torch.Generator().manual_seed(5)
    model: Any = copy.deepcopy(source.model)
    tensors = {}
    scale = 8 / 4

    def update(path: str, weight: Tensor) -> None:
        a = 0.1 * torch.randn(4, weight.shape[1], generator=generator)
        b = 0.1 * torch.randn(len(weight), 4, generator=generator)
        for letter, factor in (("A", a), ("B", b)):
            tensors[f"base_model.model.{path}.lora_{letter}.weight"] = factor
        weight.data += scale * b.to(weight) @ a.to(weight)

    towers = (("text", model.transformer), ("vision", model.visual.transformer))
    for tower, inner in towers:
        for number, block in enumerate(inner.resblocks):
            start = f"{tower}_model.encoder.layers.{number}"
            for part, rows in zip("qkv", block.attn.in_proj_weight.chunk(3), strict=True):
                update(f"{start}.self_attn.{part}_proj", rows)
            update(f"{start}.self_attn.out_proj", block.attn.out_proj.weight)
            update(f"{start}.mlp.fc1", block.mlp.c_fc.weight)
            update(f"{start}.mlp.fc2", block.mlp.c_proj.weight)
    update("text_projection", model.text_projection.T)
    update("visual_projection", model.visual.proj.T)
    files.save_peft(desk.folder, EVERYWHERE)
    save_file(tensors, desk.folder / "adapter_model.safetensors", {"format": "pt"})
    module = desk.import_file("auto", desk.folder, "clip64")
    assert module.about["imported"]["format"] == "peft_layers"
    assert module.about["config"]["templates"] == "first"
    images = draw_images(source, 3)
    with torch.no_grad():
        flyp: Any = builtin_methods().get("flyp")
        method = flyp(flyp.Config.model_validate(module.about["config"]))
        logits = method.attach(module, source, desk.labels)(images)
        weights = F.normalize(model.encode_text(source.tokenizer(desk.labels.fill())), dim=-1)
        cosines = F.normalize(model.encode_image(images), dim=-1) @ weights.T
    torch.testing.assert_close(
        logits, source.logit_scale * cosines.to(logits), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("alone", [False, True])
def test_peft_adapter_with_dora_and_whole_layers_gives_its_own_logits(
    alone: bool, desk: Desk
) -> None:
    """Its image tower may have been adapted alone; then the names do not contain the tower."""
    source = convert.load_backbone("clip64", "cpu")
    generator = torch.Generator().manual_seed(6)
    model: Any = copy.deepcopy(source.model)
    tensors = {}
    for number, block in enumerate(model.visual.transformer.resblocks):
        for path, weight in (
            ("self_attn.k_proj", block.attn.in_proj_weight.chunk(3)[1]),
            ("mlp.fc1", block.mlp.c_fc.weight),
        ):
            a = 0.1 * torch.randn(4, weight.shape[1], generator=generator)
            b = 0.1 * torch.randn(len(weight), 4, generator=generator)
            lengths = 1 + torch.rand(len(weight), generator=generator)
            new = weight.data + 2 * b.to(weight) @ a.to(weight)
            weight.data[:] = lengths.to(weight)[:, None] * F.normalize(new, dim=1)
            inner = f"encoder.layers.{number}.{path}"
            name = f"base_model.model.{inner if alone else 'vision_model.' + inner}"
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
            tensors[f"{name}.lora_magnitude_vector"] = lengths
    settings: dict[str, Any] = dict(use_dora=True)
    if alone:
        settings["auto_mapping"] = {"base_model_class": "CLIPVisionModel"}
    else:
        settings["modules_to_save"] = ["visual_projection", "post_layernorm"]
        model.visual.proj.data *= 1.5
        model.visual.ln_post.bias.data += 0.3
        start = "base_model.model."
        tensors[f"{start}visual_projection.weight"] = model.visual.proj.T.float().contiguous()
        tensors[f"{start}vision_model.post_layernorm.bias"] = model.visual.ln_post.bias.float()
    files.save_peft(desk.folder, EVERYWHERE, **settings)
    detached = {name: tensor.detach() for name, tensor in tensors.items()}
    save_file(detached, desk.folder / "adapter_model.safetensors", {"format": "pt"})
    module = desk.import_file("auto", desk.folder)
    images = draw_images(source, 3)
    with torch.no_grad():
        flyp: Any = builtin_methods().get("flyp")
        method = flyp(flyp.Config.model_validate(module.about["config"]))
        logits = method.attach(module, source, desk.labels)(images)
        weights = F.normalize(model.encode_text(source.tokenizer(desk.labels.fill())), dim=-1)
        cosines = F.normalize(model.encode_image(images), dim=-1) @ weights.T
    torch.testing.assert_close(
        logits, source.logit_scale * cosines.to(logits), rtol=1e-4, atol=1e-4
    )


def test_peft_adapter_of_one_tower_is_read_by_the_class_of_its_model(desk: Desk) -> None:
    places = [("image", 0, "q", 4), ("image", 1, "v", 4)]
    files.save_peft(desk.folder / "both", places)
    path = desk.folder / "alone"
    files.save_peft(path, places, auto_mapping={"base_model_class": "CLIPVisionModel"})
    named = load_file(path / "adapter_model.safetensors")
    tensors = {name.replace("vision_model.", ""): each for name, each in named.items()}
    save_file(tensors, path / "adapter_model.safetensors", {"format": "pt"})
    module = desk.import_file("auto", path)
    assert module.about["imported"]["format"] == "peft"
    assert module.fingerprint == desk.import_file("peft", desk.folder / "both").fingerprint
    (path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    with pytest.raises(CompatbenchError, match="does not say which tower it changes: give"):
        desk.import_file("auto", path)


def test_fine_tuned_clip_model_of_transformers_gives_its_own_logits(desk: Desk) -> None:
    """The source is a model of open_clip; the file has the names of transformers' CLIPModel."""
    transformers = pytest.importorskip("transformers")
    source = desk.backbone
    own: Any = source.model
    width = source.token_width
    image_size = source.model.visual.image_size[0]  # type: ignore[index, union-attr]
    vocabulary = own.token_embedding.num_embeddings
    is_quick = "Quick" in type(own.transformer.resblocks[0].mlp.gelu).__name__
    activation = "quick_gelu" if is_quick else "gelu"
    both = dict(hidden_size=width, intermediate_size=4 * width, hidden_act=activation)
    text = both | dict(
        num_attention_heads=own.transformer.resblocks[0].attn.num_heads,
        num_hidden_layers=source.text.depth,
        max_position_embeddings=len(own.positional_embedding),
        vocab_size=vocabulary,
        eos_token_id=vocabulary - 1,
    )
    vision = both | dict(
        num_attention_heads=own.visual.transformer.resblocks[0].attn.num_heads,
        num_hidden_layers=source.image.depth,
        patch_size=own.visual.conv1.weight.shape[-1],
        image_size=image_size,
    )
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    torch.manual_seed(3)
    model = transformers.CLIPModel(config).eval().double()
    model.save_pretrained(desk.folder / "tuned")
    module = desk.import_file("auto", desk.folder / "tuned")
    assert module.about["imported"]["format"] == "clip"
    images = draw_images(source, 3)
    method = builtin_methods().get("flyp")()
    with torch.no_grad():
        found = method.attach(module, source, desk.labels)(images)
        total = torch.zeros(len(desk.labels), 16).double()
        for template in desk.labels.templates:
            ids = source.tokenizer(list(desk.labels.fill(template)))
            total += F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
        features = model.get_image_features(pixel_values=images).pooler_output
        cosines = F.normalize(features, dim=-1) @ F.normalize(total, dim=-1).T
    torch.testing.assert_close(found, model.logit_scale.exp() * cosines, rtol=1e-6, atol=1e-6)


def test_prompt_learner_in_the_state_of_a_whole_model_is_read(desk: Desk) -> None:
    for kind in ("coop", "kgcoop", "cocoop", "atprompt"):
        state = files.dassl(kind, desk.backbone, desk.labels)
        whole = {f"prompt_learner.{name}": tensor for name, tensor in state.items()}
        for name, tensor in desk.backbone.model.visual.state_dict().items():  # type: ignore
            whole[f"image_encoder.{name}"] = tensor
        module = desk.import_file("auto", files.save(desk.folder / "model.pt", whole))
        plain = desk.import_file(kind, save_dassl(desk.folder / kind, state))
        assert module.about["imported"]["format"] == kind
        assert module.fingerprint == plain.fingerprint


def test_image_tower_and_head_of_wise_ft_give_their_own_logits(desk: Desk) -> None:
    model = tuned(desk.backbone)
    visual = {}
    for name, tensor in model.visual.state_dict().items():
        visual[f"image_encoder.model.visual.{name}"] = tensor
    path = files.save(desk.folder / "checkpoint.pt", visual | OF_WISE_FT)
    module = desk.import_file("auto", path)
    method = builtin_methods().get(module.about["method"])()
    images = draw_images(desk.backbone, 3)
    with torch.no_grad():
        found = method.attach(module, desk.backbone, desk.labels)(images)
        wanted = F.normalize(model.encode_image(images), dim=-1) @ WEIGHT.double().T + BIAS
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_scikit_learn_probe_gives_its_own_logits(desk: Desk) -> None:
    """Its labels come from a column of pandas, so its classes are an array of objects."""
    features = torch.randn(40, 16, generator=torch.Generator().manual_seed(3))
    stored = (features / features.norm(dim=1, keepdim=True)).double().numpy()
    targets = pd.Series([desk.labels.names[number % 5] for number in range(40)], dtype=object)
    probe = LogisticRegression(C=50.0).fit(stored, targets)
    path = desk.folder / "probe.npz"
    np.savez(path, coef=probe.coef_, intercept=probe.intercept_, classes=probe.classes_.tolist())
    module = desk.import_file("linear_normalized", path)
    config = module.about["config"]
    method = builtin_methods().get("linear_probe")
    attached = method(method.Config(**config)).attach(
        module.map(Tensor.float), desk.backbone, desk.labels
    )
    found = attached(features)
    columns = [[*probe.classes_].index(name) for name in desk.labels.names]
    wanted = torch.from_numpy(probe.decision_function(stored)[:, columns])
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-5)
    with pytest.raises(CompatbenchError, match="features are not those of 'linear'; name linear_"):
        export_module("linear", module, desk.folder / "back.npz")


def test_prompts_of_half_the_classes_or_other_words_are_imported(desk: Desk) -> None:
    names = desk.labels.names
    path, _ = of_dassl("coop", *names[:3])(desk)
    assert desk.import_file("coop", path, classes="base").about["classes"] == [0, 1, 2]
    assert desk.import_file("coop", path, classes="all").about["classes"] is None
    module = desk.import_file("coop", of_dassl("coop", "a dog", *names[1:])(desk)[0])
    first, *_ = module.about["imported"]["notes"]
    assert first == "the file has other words for 1 classes: 'dog'"


def test_file_that_shows_another_order_of_the_classes_gives_its_own_order(desk: Desk) -> None:
    names = desk.labels.names
    for kind, settings in (("coop", {}), ("taskres", {"alpha": 1})):
        path, _ = of_dassl(kind, *reversed(names))(desk)
        about = desk.import_file(kind, path, **settings).about
        assert about["labels"]["names"] == [*reversed(names)]
        assert about["imported"]["classes and source"].startswith(CONFIRMED)
        assert "another order" in about["imported"]["notes"][0]
        with pytest.raises(CompatbenchError, match="'tree'"):
            desk.import_file(kind, path, classes=names, **settings)


def test_linear_head_follows_class_to_idx_and_names_in_other_spellings(desk: Desk) -> None:
    spelled = ["A_dog", "the Hippopotamus", "red-apple", "Xylophone", "TREE"]
    order = [3, 0, 4, 1, 2]
    numbers = {spelled[label]: row for row, label in enumerate(order)}
    state = {"fc.weight": WEIGHT[order], "fc.bias": BIAS[order]}
    for other in (
        {"class_to_idx": numbers},
        {"id2label": {row: name for name, row in numbers.items()}},
        {"class_names": [spelled[label] for label in order]},
        {"classes": tuple(spelled[label] for label in order)},
    ):
        path = files.save(desk.folder / "head.pt", {"state_dict": state, **other})
        module = desk.import_file("auto", path)
        assert torch.equal(module["weight"].float(), WEIGHT)
    path = files.save(desk.folder / "head.pt", state)
    notes = desk.import_file("auto", path).about["imported"]["notes"]
    assert "the file does not name its classes" in notes[0]
    by_name = desk.import_file("auto", path, classes=[spelled[label] for label in order])
    assert by_name.about["classes"] == order


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"classes": np.array(["dog", "tree"])}, "has 'classes' as objects .* such as those of nu"),
        ({"classes": [np.str_("dog"), np.str_("tree")]}, "has 'classes' as objects"),
        ({"class_to_idx": {"dog": np.int64(0), "tree": np.int64(1)}}, "has 'class_to_idx' as obj"),
        ({"id2label": {np.int64(0): "dog", np.int64(1): "tree"}}, "has 'id2label' as objects"),
        ({"class_to_idx": {"dog": "0", "tree": "1"}}, "has '0' for 'dog' in 'class_to_idx'"),
        ({"class_to_idx": {"dog": 0.0, "tree": 1.0}}, r"has 0\.0 for 'dog' in 'class_to_idx'"),
        ({"class_to_idx": {"dog": 1, "tree": 2}}, "other numbers than 0 to 1 in 'class_to_idx'"),
        ({"id2label": {"LABEL_0": "dog", "LABEL_1": "tree"}}, "has 'dog' for 'LABEL_0' in 'id2la"),
    ],
)
def test_class_names_that_cannot_be_read_are_refused(
    other: dict[str, Any], message: str, desk: Desk
) -> None:
    content = {"weight": WEIGHT[:2], "bias": BIAS[:2], **other}
    path = files.save(desk.folder / "head.pt", content)
    with pytest.raises(CompatbenchError, match=message):
        desk.import_file("auto", path, classes=["dog", "tree"])


def test_settings_that_no_file_contains_are_not_called_confirmed(desk: Desk) -> None:
    path, _ = of_dassl("coop")(desk)
    imported = desk.import_file("coop", path).about["imported"]
    assert imported["undecided"] == {"position": ["end", "middle", "front"]}
    assert "the file does not say 'position'" in imported["notes"][0]
    imported = desk.import_file("coop", path, position="front").about["imported"]
    assert (imported["undecided"], imported["classes and source"]) == ({}, CONFIRMED)


def test_format_of_a_method_outside_the_repository_is_imported(desk: Desk) -> None:
    method = desk.folder / "mine.py"
    method.write_text(MINE)
    form = desk.folder / "form.py"
    form.write_text(FORM)
    path = files.save(desk.folder / "vectors.pt", {"vectors": torch.zeros(4, 32)})
    module = convert.import_module(str(form), path, "things", "clip64", methods=str(method))
    assert module.about["method"] == "mine-of-import"
    assert module.about["config"]["context_length"] == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_averaged_checkpoint_is_recognised_despite_rounding(dtype: torch.dtype, desk: Desk) -> None:
    """PromptSRC's last file also has the means of buffers, which differ by rounding."""
    weights = np.exp(-((np.arange(1, 21) - 15) ** 2) / 2)
    shares = weights / weights.sum()
    state = files.dassl("promptsrc", desk.backbone, desk.labels)
    words = (2, files.WORDS, "prompt_learner.", dtype)
    state |= files.buffers(desk.backbone, desk.labels.names, *words)

    def average(rows: Tensor) -> Tensor:
        return functools.reduce(torch.add, [rows.to(dtype) * share for share in shares])

    def save(change: float = 0.0) -> Path:
        mean = {key: average(rows) for key, rows in state.items()}
        key = "prompt_learner.token_suffix"
        mean[key] = mean[key] * (1 + change * torch.randn(mean[key].shape)).to(dtype)
        return save_dassl(desk.folder, mean)

    path = save()
    held = read_checkpoint(path).tensors["prompt_learner.token_suffix"]
    assert not torch.equal(held, state["prompt_learner.token_suffix"].to(dtype))
    module = desk.import_file("auto", path)
    assert module.about["imported"]["classes and source"] == "confirmed by the file"
    # The same words, but token embeddings that were trained further.
    with pytest.raises(CompatbenchError, match="no token embeddings of 'clip64'"):
        desk.import_file("auto", save(change=0.01))


MINE = """
from compatbench.methods.coop import CoOp
from compatbench.method import MethodCard


class Mine(CoOp):
    card = MethodCard(
        name="mine-of-import", title="Mine", paper="", inserts="text-input", summary="a test"
    )
"""
FORM = """
from compatbench.method import Module
from compatbench.method.format import Converted, Format


class Vectors(Format):
    name, method = "vectors", "mine-of-import"

    def recognise(self, file):
        return "vectors" in file.tensors

    def read(self, given):
        context = given.take("vectors", "M D")
        return Converted(Module({"context": context}), {"context_length": len(context)})
"""


def two_shots(classes: int = 5) -> Write:
    """Write Tip-Adapter's folder."""

    def write(desk: Desk) -> tuple[Path, Held]:
        files.save_cache(desk.folder, classes)
        return desk.folder, {}

    return write


def changed(write: Write, change: Callable[[Path], object]) -> Write:
    """Write a file, then change it."""

    def write_changed(desk: Desk) -> tuple[Path, Held]:
        path, held = write(desk)
        change(path)
        return path, held

    return write_changed


def diverge(path: Path) -> None:
    content = torch.load(path, weights_only=False)
    content["state_dict"]["ctx"][1, 2] = float("nan")
    torch.save(content, path)


def rename(path: Path) -> None:
    torch.save({"ctx_of_mine": torch.ones(2)}, path)


def widen(path: Path) -> None:
    torch.save(torch.zeros(8, 5), path / "values_2shots.pt")


def without(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).unlink()


def without_metadata(path: Path) -> None:
    files.save(path, files.low_rank("text") | {"metadata": {"r": 2}})


def three_rows(**classes: Any) -> Write:
    return head("head.npz", coef=WEIGHT[:3], intercept=BIAS[:3], **classes)


NAMES = ("dog", "hippopotamus", "red apple", "xylophone", "tree")  # of the task
COOP = of_dassl("coop")
HALF = of_dassl("coop", *NAMES[:3])
AT = of_dassl("atprompt")
BOTH = dict(alpha=1, beta=1)
REFUSED: list[tuple[str, Write, dict[str, Any], str]] = [
    # another source, or a file of another format
    ("coop", COOP, {"source": "stranger"}, "'ctx' is 4 × 32, but the width .* is 48, not 32"),
    ("coop", COOP, {"source": "eva64"}, "no token embeddings of 'eva64'"),
    ("cocoop", COOP, {}, "'meta_net.linear1.weight' is not there; the file holds ctx"),
    ("cocoop", of_dassl("tcp"), {}, "has a network of 128 outputs, where cocoop has 32"),
    ("vpt", COOP, {}, "'image_encoder.VPT' is not there"),
    ("auto", changed(COOP, rename), {}, "of no format that is recognised"),
    # a training that diverged
    ("coop", changed(COOP, diverge), {}, "'ctx' has numbers that are NaN or infinite"),
    # settings
    ("coop", COOP, {"alfa": 1}, "'alfa' of 'coop', .*: there is no such setting"),
    ("coop", COOP, {"position": "left"}, "'position' of 'coop', .*: Input should"),
    ("atprompt", AT, {"attributes": ["color", "size"]}, "another word than 'size' as attribute 2"),
    ("atprompt", AT, {"attributes": ["color"]}, "has 2 attributes, and --set attributes has 1"),
    ("atprompt", AT, {"attributes": ["color", "shape", "size"]}, "has 2 attributes, .* has 3"),
    ("taskres", of_dassl("taskres"), {}, "does not hold 'alpha'.*RESIDUAL_SCALE"),
    ("tip_adapter", two_shots(), {}, "does not hold 'alpha'.*--set alpha=NUMBER"),
    ("tip_adapter", two_shots(), {"alpha": 1}, "does not hold 'beta'"),
    ("tip_adapter", two_shots(), {"alpha": "much", "beta": 1}, "does not hold 'alpha'"),
    # other classes
    ("coop", HALF, {}, r"'token_suffix' .* not 3; .*--classes base"),
    ("coop", HALF, {"classes": "new"}, "not 3; give the task"),
    ("coop", HALF, {"classes": "names.txt"}, r"has 'hippopotamus' as class 1 .*'red apple'"),
    ("coop", of_dassl("coop", "cow", "sheep", "fork", "cup", "tree"), {},
     r"other words .* than 'dog'"),
    # caches
    ("tip_adapter", two_shots(), {"source": "stranger", **BOTH},
     r"keys_2.* 16 × 10, but .* 24, not 16"),
    ("tip_adapter_f", two_shots(), BOTH, r"is not named best_F_...shots.pt"),
    ("tip_adapter", two_shots(3), BOTH, r"values_2shots.pt is 6 × 3, .*--classes base"),
    ("tip_adapter", changed(two_shots(), widen), BOTH, "values_2shots.pt is 8 × 5, .* 10, not 8"),
    ("tip_adapter", changed(two_shots(), without("values_2shots.pt")), BOTH,
     r"values_2shots.pt: No such file"),
    # low-rank updates
    ("clip_lora", updates("both", parts="qo"), {}, "changes the output projection"),
    ("clip_lora", updates("text", layers=2), {}, "has 2 layers, and 'clip64' has 3 at"),
    ("clip_lora", updates("text", position="odd"), {},
     "names the position 'odd', which is not known"),
    ("clip_lora", changed(updates("text"), without_metadata), {},
     "has no 'metadata' with alpha and encoder"),
    ("peft", peft(EVERYWHERE, use_dora=True), {}, "'use_dora': True in its settings"),
    ("peft", peft(EVERYWHERE, peft_type="IA3"), {}, "has 'peft_type': 'IA3'"),
    ("peft", peft(EVERYWHERE, init_lora_weights="pissa"), {}, "'init_lora_weights': 'pissa'"),
    ("peft", peft(EVERYWHERE, modules_to_save=["visual_projection"]), {}, "'modules_to_save'"),
    ("peft", peft(EVERYWHERE, lora_alpha=None), {}, "does not hold 'lora_alpha'"),
    ("peft", peft(EVERYWHERE, alpha_pattern={"*.q_proj": 6}), {},
     r"has '\*.q_proj' in the 'alpha_pattern' .*, which is not a regular expression: nothing to"),
    ("peft", peft([("text", 0, "out", 4)]), {},
     r"changes 'text_model.*out_proj', and 'clip_lora' changes q"),
    ("peft", peft([("image", 2, "q", 4)]), {}, "changes block 2 of 2; give its own source"),
    ("peft", changed(peft(EVERYWHERE), without("adapter_config.json")), {},
     r"cannot read .*adapter_config.json"),
    # linear heads
    ("linear", three_rows(classes=[9, 0, 1]), {}, "has '9', which is not a class"),
    ("linear", three_rows(classes=["dog", "cow", "tree"]), {}, "has 'cow', which is not a class"),
    ("linear", three_rows(classes=[1, 1, 0]), {}, "has a class twice in 'classes'"),
    ("linear", three_rows(classes=[1, 0]), {}, "has 3 rows and 2 'classes'"),
    ("linear", three_rows(), {}, "'coef' is 3 × 16, but the number of classes of"),
    ("linear", head("h.pt", **OF_WISE_FT), {}, "name linear_normalized"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "write", "how", "message"), REFUSED)
def test_unfit_file_is_refused_with_its_path(
    kind: str,
    write: Write,
    how: dict[str, Any],
    message: str,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, _ = write(desk)
    monkeypatch.chdir(desk.folder)
    Path("names.txt").write_text("dog\nred apple\nhippopotamus\n")
    with pytest.raises(CompatbenchError, match=message) as error:
        desk.import_file(kind, path, **how)
    assert len(str(error.value).splitlines()) == 1
    assert str(path) in str(error.value)
