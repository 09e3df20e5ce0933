"""Models of transformers as backbones: CLIP, MetaCLIP 2, SigLIP, SigLIP 2, ALIGN, FLAVA and BLIP.

They are built from a folder; no code in it runs. The first four are assembled from open_clip's
parts. The image towers of the others run unchanged. Their text towers run from token embeddings
through their own layers, in ``PlainTower``. Those of BERT's kind (ALIGN, BLIP) normalise the input
of the first layer, which is treated as part of that layer. They hide padding from all rows, so
padding need not be computed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compatbench.backbone.load.checkpoint import check_file
from compatbench.backbone.load.find_weights import find_weights
from compatbench.backbone.text.text_anatomy import TextAnatomy
from compatbench.data.cards import BackboneCard
from compatbench.errors import BackboneError
from compatbench.messages import first_line

CONFIG = "config.json"
PREPROCESSING = "preprocessor_config.json"
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError)


def build_hf_model(card: BackboneCard, weights: bool = True) -> nn.Module:
    """Return the card's model, float32, in evaluation mode, without gradients.

    If ``weights`` is False, they are random, on torch's current default device.

    Raises:
        BackboneError: transformers is not installed, or the folder is damaged or unsupported.
        MissingWeights: the weights are not here.
    """
    from compatbench.backbone.parts.from_transformers import OpenClipModel

    path = find_weights(card, download=weights)
    folder = path.parent
    family, settings = _read_folder(folder, card)
    try:
        import transformers
    except ImportError:
        raise needs_transformers(card) from None
    cls = getattr(transformers, family.model)
    missing = []
    try:
        if weights:
            check_file(path)
            with without_bars():
                model, facts = cls.from_pretrained(
                    folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
                )
            missing = sorted(facts["missing_keys"])
        else:
            model = cls(transformers.AutoConfig.from_pretrained(folder, local_files_only=True))
    # transformers raises errors of every kind for files that are damaged or do not fit.
    except Exception as error:
        problem = f"transformers cannot load {folder} as {family.model}: {first_line(error)}"
        raise _error(card, problem) from None
    if missing:
        problem = f"the weights in {folder} lack {len(missing)} tensors of {family.model}"
        fix = "give the folder of a model that was trained to compare images with texts"
        raise _error(card, f"{problem}, such as {missing[0]}", fix)
    wrapped: Any = HuggingFaceModel(model, family) if family.text else OpenClipModel(model)
    wrapped.visual.preprocess_cfg = settings
    wrapped.activation = str(model.config.text_config.hidden_act)
    return wrapped.eval().requires_grad_(False)


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the bars with which transformers shows how it reads and writes each file."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_hf_tokenizer(card: BackboneCard, context_length: int) -> Any:
    """Return the tokenizer in the model's folder, as open_clip wraps it."""
    from open_clip.tokenizer import HFTokenizer

    folder = find_weights(card).parent
    try:
        return HFTokenizer(str(folder), context_length=context_length)
    except ImportError:
        raise needs_transformers(card) from None
    except Exception as error:
        problem = f"no tokenizer can be read from {folder}: {first_line(error)}"
        fix = "fetch the model's tokenizer files, and pip install 'compatbench[hf]'"
        raise _error(card, problem, fix) from None


def needs_transformers(card: BackboneCard) -> BackboneError:
    """Return the error for a machine without the package transformers."""
    problem = f"backbone '{card.name}' needs the package transformers"
    return BackboneError(problem, "pip install 'compatbench[hf]'")


def _read_folder(folder: Path, card: BackboneCard) -> tuple[Family, dict[str, Any]]:
    """Return the family of models that the configuration names, and the preprocessing settings."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = str(config["model_type"])
    except _UNREADABLE as error:
        raise _error(card, f"cannot read {folder / CONFIG}: {error}") from None
    if kind not in FAMILIES:
        fix = f"supported: {', '.join(FAMILIES)}"
        if kind == "siglip2":
            fix = "NaFlex keeps the shape of images; take a SigLIP 2 of one image size"
        raise _error(card, f"models of type '{kind}' are not supported", fix)
    path = folder / PREPROCESSING
    try:
        settings, inexact = _translate(json.loads(path.read_text(encoding="utf-8")))
    except _UNREADABLE as error:
        problem = f"{path} does not say how an image becomes a tensor: {error}"
        raise _error(card, problem, f"fetch the model's own {PREPROCESSING}") from None
    if inexact:
        problem = f"{path} has a setting that cannot be reproduced exactly: {inexact}"
        raise _error(card, problem, "use a model whose images are resized to its own size")
    return FAMILIES[kind], settings


def _error(card: BackboneCard, problem: str, fix: str = "fetch the model again") -> BackboneError:
    return BackboneError(f"backbone '{card.name}': {problem}", fix)


def _translate(values: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return open_clip's settings for those of an image processor, and the first inexact one."""
    size, squash = _read_size(values["size"])
    crops = values.get("do_center_crop", False)
    resample = values.get("resample", 3)
    crop = size
    if crops:
        crop, _ = _read_size(values.get("crop_size", values["size"]))
    inexact = ""
    if crop != size:
        inexact = f"images of {size} are cropped to {crop}"
    elif not crops and not squash:
        inexact = "images keep their shape"
    elif not values.get("do_resize", True):
        inexact = "images keep their size"
    elif resample not in _INTERPOLATIONS:
        inexact = f"interpolation {resample}"
    # A pixel p of 0 to 255 becomes (p * factor - offset - mean) / std.
    scale = 255
    if values.get("do_rescale", True):
        scale = 255 * values.get("rescale_factor", 1 / 255)
    offset = 1.0 if values.get("rescale_offset", False) else 0.0
    mean = values["image_mean"]
    std = values["image_std"]
    if not values.get("do_normalize", True):
        mean = [0.0] * 3
        std = [1.0] * 3
    settings = {
        "size": size,
        "mode": "RGB",
        "mean": tuple((value + offset) / scale for value in mean),
        "std": tuple(value / scale for value in std),
        "interpolation": _INTERPOLATIONS.get(resample),
        "resize_mode": "squash" if squash else "shortest",
        "fill_color": 0,
    }
    return settings, inexact


def _read_size(value: Any) -> tuple[tuple[int, int], bool]:
    """Return height and width, and True if both are given, so that images may change shape."""
    if isinstance(value, int):
        return (value, value), False
    if "shortest_edge" in value:
        edge = value["shortest_edge"]
        return (edge, edge), False
    return (value["height"], value["width"]), True


class HuggingFaceModel(nn.Module):
    """A model of transformers, unchanged, with the parts that a backbone needs."""

    def __init__(self, model: nn.Module, family: Family) -> None:
        super().__init__()
        self.visual = _Visual(model, family.image)
        self._text = family.text
        self.logit_scale = nn.Parameter(family.log_scale(model).detach().clone())

    def text_anatomy(self) -> TextAnatomy:
        """Return the text tower, of BERT's kind: its first row is projected, without a pooler."""
        model: Any = self.visual.model
        tower_name, projection_name = self._text
        text = getattr(model, tower_name)
        embeddings = text.embeddings
        config = model.config.text_config
        positions = embeddings.position_embeddings.weight
        types = getattr(embeddings, "token_type_embeddings", None)
        if types is not None:
            positions = positions + types.weight[0]
        blocks = []
        norm = embeddings.LayerNorm  # runs before the first layer only
        for layer in text.encoder.layer:
            blocks.append(_Layer(layer, config.num_attention_heads, norm))
            norm = None
        return TextAnatomy(
            token_embedding=embeddings.word_embeddings,
            positions=positions,
            blocks=tuple(blocks),
            ln_final=getattr(text, "layernorm", nn.Identity()),
            projection=getattr(model, projection_name),
            mask=None,
            pool="first",
            pad=config.pad_token_id or 0,
            pad_mask=True,
            pads_by_place=True,
        )


class _Visual(nn.Module):
    """An image tower, named with its projection if it has one."""

    preprocess_cfg: dict[str, Any]

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._names = names

    def forward(self, images: Tensor) -> Tensor:
        tower, *projection = (getattr(self.model, name) for name in self._names)
        encoded = tower(pixel_values=images)
        if not projection:
            return encoded.pooler_output
        project = projection[0]
        return project(encoded.last_hidden_state[:, 0])


class _Layer(nn.Module):
    """A layer, called like open_clip's blocks; ``norm`` comes before the first of BERT's."""

    def __init__(self, layer: nn.Module, heads: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm
        self.attn = SimpleNamespace(num_heads=heads)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        if self.norm is not None:
            x = self.norm(x)
        if attn_mask is not None:  # one for every head of every text
            attn_mask = attn_mask.unflatten(0, (len(x), self.attn.num_heads))
        out = self.layer(x, attention_mask=attn_mask)
        return out[0] if isinstance(out, tuple) else out


class Family(NamedTuple):
    """A family of transformers' models; without ``text`` it is assembled from open_clip's parts.

    Attributes:
        model: the name of the class.
        text, image: the names of a tower, and of the projection of its first row. The text tower
            is of BERT's kind. An image tower without a projection uses its own pooler.
        log_scale: returns the logarithm of the factor on cosine similarities.
    """

    model: str
    text: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    log_scale: Callable[[Any], Tensor] = lambda model: model.logit_scale


FAMILIES = {
    "clip": Family("CLIPModel"),
    "metaclip_2": Family("MetaClip2Model"),
    "siglip": Family("SiglipModel"),  # and SigLIP 2 of a fixed image size
    "align": Family(
        "AlignModel",
        ("text_model", "text_projection"),
        ("vision_model",),
        lambda model: -model.temperature.log(),
    ),
    "flava": Family(
        "FlavaModel",
        ("text_model", "text_projection"),
        ("image_model", "image_projection"),
        lambda model: model.logit_scale.clamp(0, math.log(100)),
    ),
    # Its published weights leave the temperature out; the configuration has its initial value.
    "blip": Family(
        "BlipForImageTextRetrieval",
        ("text_encoder", "text_proj"),
        ("vision_model", "vision_proj"),
        lambda model: torch.tensor(float(model.config.logit_scale_init_value)),
    ),
}
