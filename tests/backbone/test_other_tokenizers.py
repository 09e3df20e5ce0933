"""Models with a tokenizer of transformers, and images of CoCa, equal open_clip's own forward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loading_models import IMAGE, alone, small_models  # noqa: F401
from open_clip_reference import encode_texts
from safetensors.torch import save_file
from test_hugging_face import LABELS, write_tokenizer
from test_other_towers import coca
from tiny_models import randomise, wrap

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.text.prompts import move_names
from compatbench.errors import CompatbenchError

TEXT = dict(context_length=16, vocab_size=16, width=16, heads=2, layers=2)
TEXT |= dict(hf_tokenizer_name="beside", no_causal_mask=True, pool_type="last")
KINDS = {
    "siglip": TEXT | dict(proj_bias=True, tokenizer_kwargs=dict(clean="canonicalize")),
    "align": TEXT | dict(tokenizer_kwargs=dict(strip_sep_token=True)),  # CLIPA
}


@pytest.fixture(params=KINDS)
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    """A model's folder with its tokenizer: without start-of-text, and with a class token."""
    import open_clip

    config = dict(embed_dim=8, vision_cfg=IMAGE, text_cfg=KINDS[request.param], custom_text=True)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    write_tokenizer(tmp_path, request.param)
    model = randomise(open_clip.create_model(f"local-dir:{tmp_path}"), 1)
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    found = load_backbone(f"local-dir:{tmp_path}")
    return Backbone(found.card, found.model.double(), found.device)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_prompts_that_spell_a_text_equal_that_text(backbone: Backbone, own: bool) -> None:
    texts = ["a photo of a dog.", "red apple", "tree"]
    found = backbone.text_features(tuple(texts))
    torch.testing.assert_close(found, encode_texts(backbone, texts), rtol=1e-10, atol=1e-10)
    context = backbone.embed_text("a photo")
    if own:
        context = context.expand(3, -1, -1)
    prompts = backbone.prompts(LABELS, context)
    found = backbone.encode_prompts(prompts)
    expected = encode_texts(backbone, [f"a photo {name}." for name in LABELS.names])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    moved = move_names(prompts, backbone.name_tokens(LABELS)[1], context=2, before=1)
    expected = encode_texts(backbone, [f"a {name} photo." for name in LABELS.names])
    torch.testing.assert_close(backbone.encode_prompts(moved), expected, rtol=1e-10, atol=1e-10)


def test_prompts_of_images_equal_those_of_each(backbone: Backbone) -> None:
    contexts = torch.randn(2, 3, 16, dtype=torch.float64)
    found = backbone.encode_prompts(backbone.image_prompts(LABELS, contexts))
    each = [backbone.encode_prompts(backbone.prompts(LABELS, context)) for context in contexts]
    torch.testing.assert_close(found, torch.stack(each), rtol=1e-10, atol=1e-10)
    none = backbone.encode_prompts(backbone.image_prompts(LABELS, contexts[:0]))
    assert none.shape == (0, 3, 8)


def test_a_tokenizer_whose_files_are_missing_is_told(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(CompatbenchError, match="tokenizer") as caught:
        load_backbone(f"local-dir:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_the_images_of_coca_equal_encode_image() -> None:
    model: Any = coca()
    model.visual.preprocess_cfg = dict(size=24, mean=(0.5,) * 3, std=(0.25,) * 3)
    backbone = wrap(model, "tiny-coca")
    images = torch.randn(2, 3, 24, 24)
    expected = model.encode_image(images, normalize=False)
    torch.testing.assert_close(backbone.encode_images(images), expected)
