"""Models and tokenizers of transformers equal their own forward, from tiny folders made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from kinds_of_towers import coca
from loading_models import IMAGE, write_tokenizer
from open_clip_reference import encode_texts
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import randomise, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels, load_backbone
from compatbench.backbone.build import build_architecture
from compatbench.backbone.hf import FAMILIES
from compatbench.backbone.load import read_backbone
from compatbench.backbone.text.prompts import move_names
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.extras.doctor.backbone_report import inspect_backbone

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("no_weights_here")

LABELS = Labels(("dog", "red apple", "tree"), ("a photo of a {}.",), "a photo of a {}.")
TEXT = dict(vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=3)
TEXT |= dict(num_attention_heads=2, max_position_embeddings=20)
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
VISION |= dict(image_size=64, patch_size=16)
BERT = TEXT | dict(bos_token_id=1, eos_token_id=3, sep_token_id=3, pad_token_id=0)
ENDS = TEXT | dict(bos_token_id=1, eos_token_id=3, pad_token_id=3)
PROCESSOR = dict(size={"height": 64, "width": 64}, do_center_crop=False, resample=3)
PROCESSOR |= dict(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], rescale_factor=1 / 255)
CONFIGS: dict[str, dict[str, Any]] = {
    "clip": dict(text_config=ENDS, vision_config=VISION, projection_dim=16),
    "metaclip_2": dict(
        text_config=BERT | dict(hidden_act="gelu"),
        vision_config=VISION | dict(hidden_act="gelu"),
        projection_dim=16,
    ),
    "siglip": dict(
        text_config=TEXT | dict(projection_size=32, pad_token_id=2, eos_token_id=3),
        vision_config=VISION,
    ),
    "align": dict(
        text_config=BERT,
        vision_config=dict(
            image_size=64, width_coefficient=0.2, depth_coefficient=0.2, hidden_dim=64
        ),
        projection_dim=64,
    ),
    "flava": dict(
        text_config=BERT, image_config=VISION, multimodal_config=VISION, projection_dim=16
    ),
    "blip": dict(text_config=BERT | dict(is_decoder=True), vision_config=VISION)
    | dict(image_text_hidden_size=16),
}
OF_OPEN_CLIP = ("clip", "metaclip_2", "siglip")  # converted to open_clip's parts


def write_model(folder: Path, kind: str, **processor: Any) -> Any:
    """Write a model of random weights into a folder like those of the hub, and return it."""
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(kind, **CONFIGS[kind])
    model = getattr(transformers, FAMILIES[kind].model)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    write_tokenizer(folder, kind)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | processor))
    return model.eval().double()


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A backbone from a folder, in double precision, and transformers' own model."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    model = write_model(folder, kind)
    found = load_backbone(f"hf:{folder}")
    return kind, Backbone(found.card, found.model.double(), torch.device("cpu")), model


def own_text_features(kind: str, backbone: Backbone, model: Any, texts: list[str]) -> Tensor:
    """Return transformers' features of padded texts, with the attention mask of its tokenizer."""
    inner: Any = backbone.tokenizer.tokenizer
    length = dict(padding="max_length", max_length=20, return_tensors="pt")
    found = inner(texts, **length)
    mask = {"attention_mask": found.attention_mask}
    if kind == "siglip":  # it was trained without a mask
        mask = {}
    if kind == "blip":
        rows = model.text_encoder(input_ids=found.input_ids, **mask).last_hidden_state
        return model.text_proj(rows[:, 0])
    features = model.get_text_features(input_ids=found.input_ids, **mask).pooler_output
    if kind == "flava":
        return features[:, 0]
    return features


def close(kind: str) -> dict[str, float]:
    """Return the tolerances: ALIGN computes its attention in float32 in any precision."""
    tolerance = 1e-5 if kind == "align" else 1e-9
    return dict(rtol=tolerance, atol=tolerance)


def test_texts_with_a_context_equal_the_forward_of_transformers(pair: Any) -> None:
    kind, backbone, model = pair
    first = len(backbone.text_tokens.start)
    context = torch.randn(2, 32, dtype=torch.float64, requires_grad=True)

    def put_in(_: Any, __: Any, rows: Tensor) -> Tensor:
        middle = context.expand(len(rows), -1, -1)
        return torch.cat([rows[:, :first], middle, rows[:, first + 2 :]], dim=1)

    text = model.text_encoder if kind == "blip" else model.text_model
    hook = text.get_input_embeddings().register_forward_hook(put_in)
    texts = [f"a a {name}." for name in LABELS.names]
    expected = own_text_features(kind, backbone, model, texts)
    hook.remove()
    found = backbone.encode_prompts(backbone.prompts(LABELS, context))
    torch.testing.assert_close(found, expected, **close(kind))
    weight = torch.randn_like(found)
    [gradient] = torch.autograd.grad((weight * found).sum(), context)
    [expected_gradient] = torch.autograd.grad((weight * expected).sum(), context)
    torch.testing.assert_close(gradient, expected_gradient, **close(kind))


def test_images_scale_and_sizes_equal_those_of_transformers(pair: Any) -> None:
    kind, backbone, model = pair
    image = Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    pixels = backbone.preprocess(image)[None].double()
    processor = transformers.CLIPImageProcessor.from_pretrained(backbone.card.path)
    expected = processor(image, return_tensors="pt")["pixel_values"].double()
    torch.testing.assert_close(pixels, expected, rtol=0, atol=0.03)
    ids = torch.tensor([[1, 4, 3]])
    if kind == "blip":
        rows = model.vision_model(pixel_values=pixels).last_hidden_state
        features = model.vision_proj(rows[:, 0])
        scale = torch.tensor(2.6592).exp()
    elif kind == "flava":
        features = model.get_image_features(pixel_values=pixels).pooler_output[:, 0]
        scale = model.logit_scale.exp()
    else:
        out = model(input_ids=ids, pixel_values=pixels)
        features = model.get_image_features(pixel_values=pixels).pooler_output
        cosine = torch.cosine_similarity(out.image_embeds, out.text_embeds)
        bias = getattr(model, "logit_bias", torch.zeros(()))
        scale = (out.logits_per_image - bias) / cosine
    torch.testing.assert_close(backbone.encode_images(pixels), features, rtol=1e-9, atol=1e-9)
    assert backbone.logit_scale == pytest.approx(scale.item(), rel=1e-5)
    if kind not in OF_OPEN_CLIP:
        with pytest.raises(NotTransferable):
            _ = backbone.image
    report = inspect_backbone(backbone.name)  # without loading weights
    assert (report.state, report.message, report.image_size) == ("found", "", 64)
    assert report.token_width == backbone.token_width == 32
    assert report.embed_dim == backbone.embed_dim
    assert report.context_length == 20


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    write_model(tmp_path, "clip")
    config = json.loads((tmp_path / "config.json").read_text())
    names = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor")
    config["auto_map"] = dict.fromkeys(names, "mine.Mine")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        about = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(about | {"auto_map": config["auto_map"]}))
    ran = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Mine: pass\n")
    assert load_backbone(f"hf:{tmp_path}").embed_dim == 16
    assert not ran.exists()


def write_architecture(folder: Path, settings: dict[str, Any]) -> None:
    """Write a model's folder without weights, with other settings of its images."""
    config = transformers.AutoConfig.for_model("clip", **CONFIGS["clip"])
    config.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | settings))
    (folder / "model.safetensors").touch()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(do_center_crop=True, crop_size=20), "cropped to"),
        (dict(size={"shortest_edge": 64}), "keep their shape"),
        (dict(do_resize=False), "keep their size"),
        (dict(resample=0), "interpolation 0"),
        (dict(size={}), "does not say"),
    ],
)
def test_transform_that_cannot_be_reproduced_exactly_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    write_architecture(tmp_path, settings)
    with pytest.raises(CompatbenchError, match=message):
        build_architecture(read_backbone(f"hf:{tmp_path}"))


def test_offset_of_pixels_becomes_part_of_mean_and_std(tmp_path: Path) -> None:
    settings = dict(rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False)
    write_architecture(tmp_path, settings)
    model: Any = build_architecture(read_backbone(f"hf:{tmp_path}"))
    found = model.visual.preprocess_cfg
    assert found["mean"] == found["std"] == pytest.approx((0.5,) * 3)


@pytest.mark.slow
def test_missing_tensors_and_missing_tokenizer_are_reported(
    tmp_path: Path,
) -> None:
    write_model(tmp_path, "siglip")
    assert inspect_backbone(f"hf:{tmp_path}").state == "found"
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["logit_scale"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CompatbenchError, match="lack 1 tensors of SiglipModel, such as logit_sc"):
        load_backbone(f"hf:{tmp_path}")
    for path in tmp_path.glob("token*"):
        path.unlink()
    report = inspect_backbone(f"hf:{tmp_path}")
    assert report.state == "wrong"
    assert "no tokenizer can be read from" in report.message
    assert "compatbench[hf]" in report.fix


INNER = dict(context_length=16, vocab_size=16, width=16, heads=2, layers=2)
INNER |= dict(hf_tokenizer_name="beside", no_causal_mask=True, pool_type="last")
TOKENIZERS = {
    "siglip": INNER | dict(proj_bias=True, tokenizer_kwargs=dict(clean="canonicalize")),
    "align": INNER | dict(tokenizer_kwargs=dict(strip_sep_token=True)),  # CLIPA
}


@pytest.fixture(params=TOKENIZERS)
def of_open_clip(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    """A model's folder with its tokenizer: without start-of-text, and with a class token."""
    config = dict(
        embed_dim=8, vision_cfg=IMAGE, text_cfg=TOKENIZERS[request.param], custom_text=True
    )
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    write_tokenizer(tmp_path, request.param)
    model = randomise(open_clip.create_model(f"local-dir:{tmp_path}"), 1)
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    found = load_backbone(f"local-dir:{tmp_path}")
    return Backbone(found.card, found.model.double(), found.device)


def test_prompts_equal_the_text_that_they_spell(of_open_clip: Backbone) -> None:
    def same(found: Tensor, *texts: str) -> None:
        expected = encode_texts(of_open_clip, list(texts))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)

    texts = ("a photo of a dog.", "red apple", "tree")
    same(of_open_clip.text_features(texts), *texts)
    shared = of_open_clip.embed_text("a photo")
    for context in (shared, shared.expand(3, -1, -1)):
        prompts = of_open_clip.prompts(LABELS, context)
        spelled = [f"a photo {name}." for name in LABELS.names]
        same(of_open_clip.encode_prompts(prompts), *spelled)
        moved = move_names(prompts, of_open_clip.name_tokens(LABELS)[1], context=2, before=1)
        spelled = [f"a {name} photo." for name in LABELS.names]
        same(of_open_clip.encode_prompts(moved), *spelled)


def test_missing_tokenizer_files_are_refused(of_open_clip: Backbone, tmp_path: Path) -> None:
    for path in tmp_path.glob("token*"):
        path.unlink()
    with pytest.raises(CompatbenchError, match="tokenizer"):
        load_backbone(of_open_clip.name)


def test_coca_images_equal_encode_image() -> None:
    model: Any = coca()
    model.visual.preprocess_cfg = dict(size=24, mean=(0.5,) * 3, std=(0.25,) * 3)
    backbone = wrap(model, "tiny-coca")
    images = torch.randn(2, 3, 24, 24)
    expected = model.encode_image(images, normalize=False)
    torch.testing.assert_close(backbone.encode_images(images), expected)
