"""Caches, feature adapters, low-rank updates and linear heads: imported, refused, and back."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from image_reference import draw_images
from open_clip_reference import encode_texts
from safetensors.torch import load_file, save_file
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import CompatbenchError
from compatbench.method.checkpoint_reader import read_checkpoint
from compatbench.method.convert import export_checkpoint, recognise

from .conftest import Importer
from .dassl_files import State, drawer, save_dassl
from .test_dassl import cosine, logits_of


def texts_of(backbone: Backbone, labels: Labels) -> Tensor:
    """Features of the first template, as open_clip gives them."""
    with torch.no_grad():
        return encode_texts(backbone, labels.fill())


def save_cache(folder: Path, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Two shots of Tip-Adapter, as its script saves them: keys transposed, all in halves."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = F.normalize(drawer(1, torch.float32)(2 * classes, 16), dim=-1).half()
    values = F.one_hot(torch.arange(classes).repeat_interleave(2)).half()
    trained = torch.nn.Parameter(keys + drawer(2)(2 * classes, 16))
    torch.save(keys.T, folder / "keys_2shots.pt")
    torch.save(values, folder / "values_2shots.pt")
    torch.save(trained, folder / "best_F_2shots.pt")
    return keys, values, trained.detach()


@pytest.mark.parametrize("kind", ["tip_adapter", "tip_adapter_f"])
def test_a_cache(
    kind: str, tmp_path: Path, import_for_test: Importer, clip64: Backbone, labels: Labels
) -> None:
    keys, values, trained = save_cache(tmp_path / "caches" / "things")
    start, keys = ("keys", keys) if kind == "tip_adapter" else ("best_F", trained)
    path = tmp_path / "caches" / "things" / f"{start}_2shots.pt"
    assert recognise(read_checkpoint(path)) == [kind]
    module = import_for_test(kind, path, alpha=1.5, beta=2.5)
    images = draw_images(clip64, 3)
    features = F.normalize(clip64.encode_images(images), dim=-1)
    weights = torch.exp(-(2.5 - 2.5 * features @ keys.double().T))
    wanted = cosine(clip64, texts_of(clip64, labels), features) + 1.5 * weights @ values.double()
    found = logits_of(module, clip64, labels, images)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert module.about["shots"] == 2
    assert bool(module.about["imported"]["notes"]) == (kind == "tip_adapter_f")
    for written in export_checkpoint(kind, module, tmp_path / "back", None).files:
        theirs = read_checkpoint(path.parent / written.name).tensors[""]
        ours = read_checkpoint(written).tensors[""]
        assert ours.dtype == torch.float16
        assert written.name.startswith("keys_") or torch.equal(ours, theirs)
    again = import_for_test(kind, tmp_path / "back" / path.name, alpha=1.5, beta=2.5)
    assert again.fingerprint == module.fingerprint


def test_a_cache_that_does_not_tell_enough(
    tmp_path: Path, import_for_test: Importer, labels: Labels
) -> None:
    save_cache(tmp_path)
    with pytest.raises(CompatbenchError, match=r"does not hold 'alpha'.*--set alpha=NUMBER"):
        import_for_test("tip_adapter", tmp_path)
    with pytest.raises(CompatbenchError, match="does not hold 'beta'"):
        import_for_test("tip_adapter", tmp_path, alpha=1)
    both = dict(alpha=1, beta=1)
    with pytest.raises(CompatbenchError, match=r"keys_2shots.pt is 16 × 10, but .* is 24, not 16"):
        import_for_test("tip_adapter", tmp_path, "stranger", **both)
    with pytest.raises(CompatbenchError, match="does not hold 'alpha'"):
        import_for_test("tip_adapter", tmp_path, alpha="much", beta=1)
    with pytest.raises(CompatbenchError, match=r"is not named best_F_...shots.pt"):
        import_for_test("tip_adapter_f", tmp_path, **both)
    save_cache(tmp_path, classes=3)
    with pytest.raises(CompatbenchError, match=r"values_2shots.pt is 6 × 3, .*--classes base"):
        import_for_test("tip_adapter", tmp_path, **both)
    torch.save(torch.zeros(8, 5), tmp_path / "values_2shots.pt")
    with pytest.raises(CompatbenchError, match=r"values_2shots.pt is 8 × 5, but .* has 6, not 8"):
        import_for_test("tip_adapter", tmp_path, **both)
    (tmp_path / "values_2shots.pt").unlink()
    with pytest.raises(CompatbenchError, match=r"values_2shots.pt: No such file"):
        import_for_test("tip_adapter", tmp_path, **both)


def test_an_adapter_of_features(
    tmp_path: Path, import_for_test: Importer, clip64: Backbone, labels: Labels
) -> None:
    draw = drawer(3, torch.float32)
    state = {"fc.0.weight": draw(4, 16), "fc.2.weight": draw(16, 4)}
    path = save_dassl(tmp_path, state, "clip_adapter")
    assert recognise(read_checkpoint(tmp_path)) == ["clip_adapter"]
    module = import_for_test("auto", tmp_path, ratio=0.6)
    images = draw_images(clip64, 3)
    features = clip64.encode_images(images)
    down, up = (tensor.double() for tensor in state.values())
    adapted = 0.6 * F.relu(F.relu(features @ down.T) @ up.T) + 0.4 * features
    wanted = cosine(clip64, texts_of(clip64, labels), adapted)
    torch.testing.assert_close(logits_of(module, clip64, labels, images), wanted)
    [written], _ = export_checkpoint("clip_adapter", module, tmp_path / "back", None)
    for name, tensor in read_checkpoint(written).tensors.items():
        assert torch.equal(tensor, read_checkpoint(path).tensors[name])


def residuals(backbone: Backbone, labels: Labels, which: slice = slice(1)) -> State:
    """TaskRes's residuals, and features of some templates, averaged as its code does."""
    with torch.no_grad():
        texts = [encode_texts(backbone, labels.fill(one)) for one in labels.templates[which]]
    base = torch.stack(texts).mean(0).float()
    residual = drawer(4, torch.float32)(len(labels), 16)
    return {"base_text_features": base, "text_feature_residuals": residual}


@pytest.mark.parametrize(("which", "setting"), [(slice(1), "first"), (slice(None), "all")])
def test_residuals(
    which: slice,
    setting: str,
    tmp_path: Path,
    import_for_test: Importer,
    clip64: Backbone,
    labels: Labels,
) -> None:
    state = residuals(clip64, labels, which)
    path = save_dassl(tmp_path, state)
    assert recognise(read_checkpoint(path)) == ["taskres"]
    module = import_for_test("taskres", path, alpha=0.7)
    images = draw_images(clip64, 3)
    base, residual = (tensor.double() for tensor in state.values())
    wanted = cosine(clip64, base + 0.7 * residual, clip64.encode_images(images))
    found = logits_of(module, clip64, labels, images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)  # the base is in single
    assert module.about["config"]["templates"] == setting
    assert module.about["imported"]["classes and source"] == "confirmed by the file"
    [written], _ = export_checkpoint("taskres", module, tmp_path / "back", None)
    ours = read_checkpoint(written).tensors["text_feature_residuals"]
    assert torch.equal(ours, state["text_feature_residuals"])


def test_residuals_of_others(
    tmp_path: Path, import_for_test: Importer, clip64: Backbone, clip: Backbone, labels: Labels
) -> None:
    path = save_dassl(tmp_path, residuals(clip64, labels))
    with pytest.raises(CompatbenchError, match=r"does not hold 'alpha'.*RESIDUAL_SCALE"):
        import_for_test("taskres", path)
    swapped = Labels(tuple(reversed(labels.names)), labels.templates, "")
    path = save_dassl(tmp_path, residuals(clip64, swapped))
    with pytest.raises(CompatbenchError, match="another text than ours for class 0, 'dog'"):
        import_for_test("taskres", path, alpha=1)


LoRA = dict[str, dict[str, dict[str, Tensor]]]


def low_rank(encoder: str, rank: int = 2, parts: str = "qkv", **said: Any) -> dict[str, Any]:
    """What CLIP-LoRA saves for text towers of 3 blocks and image towers of 2, of width 32."""
    draw, weights = drawer(5, torch.float32), {}
    count = {"both": 5, "text": 3, "vision": 2}[encoder]
    for i in range(said.pop("layers", count)):
        names = ["proj" if part == "o" else f"{part}_proj" for part in parts]
        weights[f"layer_{i}"] = {
            name: {"w_lora_A": draw(rank, 32), "w_lora_B": draw(32, rank)} for name in names
        }
    metadata = {"r": rank, "alpha": 1, "encoder": encoder, "params": [*parts], "position": "all"}
    return {"weights": weights, "metadata": metadata | said}


def updated(backbone: Backbone, deltas: dict[tuple[str, int, str], Tensor]) -> Any:
    """A copy of the model with matrices added to q, k and v of its blocks."""
    model: Any = copy.deepcopy(backbone.model)
    towers = {"text": model.transformer, "image": model.visual.transformer}
    for (tower, block, part), delta in deltas.items():
        weight = towers[tower].resblocks[block].attn.in_proj_weight
        start = "qkv".index(part) * 32
        weight.data[start : start + 32] += delta.double()
    return model


def updated_logits(backbone: Backbone, labels: Labels, model: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        texts = model.encode_text(backbone.tokenizer(list(labels.fill())))
        return cosine(backbone, texts, model.encode_image(images))


@pytest.mark.parametrize(
    ("encoder", "parts", "said", "first"),
    [
        ("both", "qkv", {}, 0),
        ("text", "qv", {"alpha": 4}, 0),
        ("vision", "qkv", {}, 0),
        ("text", "qkv", {"position": "up", "layers": 1}, 2),
    ],
)
def test_updates_of_clip_lora(
    encoder: str,
    parts: str,
    said: dict[str, Any],
    first: int,
    tmp_path: Path,
    import_for_test: Importer,
    clip64: Backbone,
    labels: Labels,
) -> None:
    content = low_rank(encoder, parts=parts, **said)
    path = tmp_path / "vitb16" / "things" / "4shots" / "seed3" / "lora_weights.pt"
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    assert recognise(read_checkpoint(path)) == ["clip_lora"]
    module = import_for_test("clip_lora", path)
    deltas = {}
    for i, layer in enumerate(content["weights"].values()):
        place = ("text", i + first) if encoder != "vision" and i < 3 else ("image", i)
        place = ("image", i - 3) if encoder == "both" and i >= 3 else place
        for name, pair in layer.items():
            delta = pair["w_lora_B"].double() @ pair["w_lora_A"].double()
            scale = content["metadata"]["alpha"] / math.sqrt(2)
            deltas[(*place, name[0])] = scale * delta
    images = draw_images(clip64, 3)
    wanted = updated_logits(clip64, labels, updated(clip64, deltas), images)
    found = logits_of(module, clip64, labels, images)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)
    assert (module.about["shots"], module.about["seed"]) == (4, 3)
    [written], _ = export_checkpoint("clip_lora", module, tmp_path / "back.pt", None)
    again = import_for_test("clip_lora", written)
    assert again.fingerprint == module.fingerprint
    if encoder == "both":
        first_file, second_file = read_checkpoint(path), read_checkpoint(written)
        assert first_file.values == second_file.values
        for name, tensor in first_file.tensors.items():
            assert torch.equal(tensor, second_file.tensors[name])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (low_rank("both", parts="qo"), "changes the output projection .*'clip_lora' does not"),
        (low_rank("text", layers=2), "has 2 layers, and 'clip64' has 3 at its position 'all'"),
        (low_rank("text", position="odd"), "names the position 'odd', which is not known"),
        (low_rank("text") | {"metadata": {"r": 2}}, "has no 'metadata' with alpha and encoder"),
    ],
)
def test_updates_that_are_not_imported(
    content: dict[str, Any], message: str, tmp_path: Path, import_for_test: Importer
) -> None:
    torch.save(content, tmp_path / "lora_weights.pt")
    with pytest.raises(CompatbenchError, match=message):
        import_for_test("clip_lora", tmp_path)


HF = {"text": "text_model", "image": "vision_model"}


def save_peft(folder: Path, places: list[tuple[str, int, str, int]], **settings: Any) -> State:
    """An adapter in PEFT's two files; a place is tower, block, projection and rank."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, tensors = drawer(6, torch.float32), {}
    for tower, block, part, rank in places:
        name = f"base_model.model.{HF[tower]}.encoder.layers.{block}.self_attn.{part}_proj"
        tensors[f"{name}.lora_A.weight"] = draw(rank, 32)
        tensors[f"{name}.lora_B.weight"] = draw(32, rank)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": False}
    config |= {"modules_to_save": None, "base_model_name_or_path": "openai/clip-vit-base-patch16"}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return tensors


SAME = [(tower, i, part, 4) for tower in ("text", "image") for i in (0, 1) for part in "qkv"]
MIXED = [("text", 0, "q", 4), ("text", 2, "v", 2)]
PATTERNS: Any = dict(rank_pattern={"layers.2.self_attn.v_proj": 2})
PATTERNS |= dict(alpha_pattern={"text_model.encoder.layers.2.self_attn.v_proj": 6})


@pytest.mark.parametrize(
    ("places", "settings", "scales"),
    [
        (SAME, {}, {4: 8 / 4}),
        (SAME, {"use_rslora": True}, {4: 8 / math.sqrt(4)}),
        (MIXED, PATTERNS, {4: 8 / 4, 2: 6 / 2}),
    ],
)
def test_an_adapter_of_peft(
    places: list[tuple[str, int, str, int]],
    settings: dict[str, Any],
    scales: dict[int, float],
    tmp_path: Path,
    import_for_test: Importer,
    clip64: Backbone,
    labels: Labels,
) -> None:
    tensors = save_peft(tmp_path / "adapter", places, **settings)
    module = import_for_test("auto", tmp_path / "adapter")
    pairs = [tensor.double() for tensor in tensors.values()]
    deltas = {
        place[:3]: scales[place[3]] * b @ a
        for place, a, b in zip(places, pairs[::2], pairs[1::2], strict=True)
    }
    images = draw_images(clip64, 3)
    wanted = updated_logits(clip64, labels, updated(clip64, deltas), images)
    found = logits_of(module, clip64, labels, images)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)
    assert module.about["imported"]["notes"] == ["trained on openai/clip-vit-base-patch16"]
    export_checkpoint("peft", module, tmp_path / "back", None)
    again = import_for_test("peft", tmp_path / "back")
    torch.testing.assert_close(logits_of(again, clip64, labels, images), found, rtol=0, atol=1e-4)
    if places is SAME:
        back = load_file(tmp_path / "back" / "adapter_model.safetensors")
        assert {n: t.tolist() for n, t in back.items()} == {
            n: t.tolist() for n, t in tensors.items()
        }


@pytest.mark.parametrize(
    ("places", "settings", "message"),
    [
        (SAME, {"use_dora": True}, "has 'use_dora': True in its settings, which is not imported"),
        (SAME, {"peft_type": "IA3"}, "has 'peft_type': 'IA3'"),
        (SAME, {"init_lora_weights": "pissa"}, "'init_lora_weights': 'pissa'"),
        (SAME, {"modules_to_save": ["visual_projection"]}, "'modules_to_save'"),
        (SAME, {"lora_alpha": None}, "does not hold 'lora_alpha'"),
        ([("text", 0, "out", 4)], {}, r"changes 'text_model.*out_proj', and 'clip_lora' changes q"),
        ([("image", 2, "q", 4)], {}, "changes block 2 of 2; give its own source"),
    ],
)
def test_an_adapter_that_is_not_imported(
    places: list[tuple[str, int, str, int]],
    settings: dict[str, Any],
    message: str,
    tmp_path: Path,
    import_for_test: Importer,
) -> None:
    save_peft(tmp_path, places, **settings)
    with pytest.raises(CompatbenchError, match=message):
        import_for_test("peft", tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(CompatbenchError, match=r"cannot read .*adapter_config.json"):
        import_for_test("peft", tmp_path)


def write_head(path: Path, **arrays: Any) -> Path:
    tensors = {name: torch.as_tensor(a) for name, a in arrays.items() if name != "classes"}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({f"fc.{name}": tensor for name, tensor in tensors.items()}, path)
    return path


WEIGHT = drawer(7, torch.float32)(5, 16)
BIAS = drawer(8, torch.float32)(5)
SKLEARN: Any = dict(coef=WEIGHT.numpy(), intercept=BIAS.numpy())


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("head.npz", SKLEARN),
        ("head.pt", dict(weight=WEIGHT, bias=BIAS)),
        ("head.safetensors", dict(weight=WEIGHT, bias=BIAS)),
    ],
)
def test_a_linear_head(
    name: str,
    arrays: dict[str, Any],
    tmp_path: Path,
    import_for_test: Importer,
    clip64: Backbone,
    labels: Labels,
) -> None:
    path = write_head(tmp_path / name, **arrays)
    assert recognise(read_checkpoint(path)) == ["linear"]
    module = import_for_test("linear", path)
    images = draw_images(clip64, 3)
    wanted = clip64.encode_images(images) @ WEIGHT.double().T + BIAS.double()
    torch.testing.assert_close(logits_of(module, clip64, labels, images), wanted)
    [written], _ = export_checkpoint("linear", module, tmp_path / f"back{path.suffix}", None)
    theirs, ours = read_checkpoint(path).tensors, read_checkpoint(written).tensors
    for key, tensor in theirs.items():
        assert torch.equal(ours[key.removeprefix("fc.")], tensor)


def test_rows_of_a_linear_head_are_of_the_classes_beside_them(
    tmp_path: Path, import_for_test: Importer, labels: Labels
) -> None:
    path = tmp_path / "head.npz"
    three: Any = dict(coef=WEIGHT[:3].numpy(), intercept=BIAS[:3].numpy())
    module = import_for_test("linear", write_head(path, **three, classes=np.array([4, 0, 2])))
    assert torch.equal(module["weight"][[4, 0, 2]].float(), WEIGHT[:3])
    assert module["bias"][1] < -1000
    names = np.array([labels.names[label] for label in (4, 0, 2)])
    again = import_for_test("linear", write_head(path, **three, classes=names))
    assert again.fingerprint == module.fingerprint
    for classes, message in [
        ([9, 0, 1], "has '9', which is not a class of the task in 'classes'"),
        (["dog", "cow", "tree"], "has 'cow', which is not a class"),
        ([1, 1, 0], "has a class twice in 'classes'"),
        ([1, 0], "has 3 rows and 2 'classes'"),
    ]:
        write_head(path, **three, classes=np.array(classes))
        with pytest.raises(CompatbenchError, match=message):
            import_for_test("linear", path)
    write_head(path, **three)
    with pytest.raises(CompatbenchError, match="'coef' is 3 × 16, but the number of classes of"):
        import_for_test("linear", path)


def test_a_head_of_two_classes_has_one_row(tmp_path: Path, import_for_test: Importer) -> None:
    path = write_head(tmp_path / "head.npz", coef=WEIGHT[:1].numpy(), intercept=BIAS[:1].numpy())
    (tmp_path / "names.txt").write_text("dog\ntree\n")
    module = import_for_test("linear", path, classes=str(tmp_path / "names.txt"))
    assert torch.equal((module["weight"][1] - module["weight"][0]).float(), WEIGHT[0])
    assert torch.equal((module["bias"][1] - module["bias"][0]).float(), BIAS[0])


def test_a_head_on_normalised_features(
    tmp_path: Path, import_for_test: Importer, clip64: Backbone, labels: Labels
) -> None:
    module = import_for_test("linear_normalized", write_head(tmp_path / "h.pt", weight=WEIGHT))
    images = draw_images(clip64, 3)
    features = F.normalize(clip64.encode_images(images), dim=-1)
    found = logits_of(module, clip64, labels, images)
    torch.testing.assert_close(found, features @ WEIGHT.double().T)
    path = write_head(tmp_path / "h.pt", weight=WEIGHT, bias=BIAS)
    with pytest.raises(CompatbenchError, match="has a bias, which no method on normalised"):
        import_for_test("linear_normalized", path)
