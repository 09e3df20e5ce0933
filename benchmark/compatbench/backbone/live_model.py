"""``as_backbone``: make a model that is in memory a backbone.

The model is written to the cache once, in the layout of its own library, beside a card. From then
on it is an ordinary backbone: all other code, in this process or another, finds its card by name.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from compatbench.backbone.backbone import Backbone, load_backbone
from compatbench.backbone.build import build_architecture
from compatbench.backbone.hf import FAMILIES, PREPROCESSING, without_bars
from compatbench.backbone.load.backbone_names import LOCAL_DIR, model_names, quiet, read_backbone
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import backbone_cards
from compatbench.errors import BackboneError, CompatbenchError
from compatbench.files.atomic import cannot_write, write_atomic
from compatbench.files.hashes import canonical_json, sha256_bytes
from compatbench.files.project_folders import add_own_place, forget_own_place
from compatbench.files.scratch import scratch_folder
from compatbench.files.yaml_text import dump_yaml
from compatbench.messages import first_line

FOLDER = "backbones"  # in the cache
MODEL = "model"  # the folder of the model's files, beside its card
CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
MERGES = "merges.txt.gz"
_DIGITS = 8  # of the hash in a name
_TEXTS = ["a photo of a cat.", "Two DOGS, and a red-brick house!"]
# The largest difference of the features, of length 1, between a model and its copy from the disk.
_TOLERANCE = 1e-4
_TOLERANCE_OF_HALF = 2e-2  # for a model of 16 bits, as its copy computes with 32


class StoredBackbone(str):
    """A model of ``cb.as_backbone``: its name, which is accepted wherever a backbone's name is."""

    def __repr__(self) -> str:
        return f"<Backbone '{self}'>"


def as_backbone(
    model: Any,
    preprocess: Any,
    tokenizer: Any = None,
    *,
    config: str | Mapping[str, Any] | None = None,
) -> StoredBackbone:
    """Make a model that is in memory a backbone.

    The model is written to the cache, under a hash of its weights, tokenizer and preprocessing; the
    same model is written once. The backbone does not change with the model: after further training,
    call this again.

    Args:
        model: a model of open_clip, or one of transformers that compares images with texts, such
            as ``CLIPModel``.
        preprocess: open_clip's transform for evaluation; of a model of transformers, its processor.
        tokenizer: open_clip's tokenizer. A processor of transformers contains one.
        config: the configuration (``model_cfg``) of a model of open_clip, or its name; by default
            that of ``open_clip.list_models()`` that gives this model.

    Returns:
        The name of the backbone, for ``fit``, ``evaluate``, ``advise`` and all others.

    Raises:
        CompatbenchError: the model has no text tower or is of an unknown kind, or the copy in the
            cache does not compute the same features.
    """
    if hasattr(model, "save_pretrained") and hasattr(model, "config"):
        return _store(_TransformersModel(model, preprocess))
    return _store(_OpenClipModel(model, preprocess, tokenizer, config))


class _LiveModel(ABC):
    """A model in memory, which can be written to a folder."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.kind = type(model).__name__

    @abstractmethod
    def write_settings(self, folder: Path) -> dict[str, Any]:
        """Write tokenizer and preprocessing, and return what else identifies the model."""

    @abstractmethod
    def write_model(self, folder: Path) -> dict[str, Any]:
        """Write weights and configuration, and return further fields of the card."""

    @abstractmethod
    def compute(self, stored: Backbone, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the model's own features of images and of ``_TEXTS``.

        Args:
            stored: the copy from the disk.
            pixels: the images, on the model's device and in its precision.
        """

    def check(self, name: str) -> None:
        """Raise CompatbenchError if the backbone of this name computes something else."""
        stored = load_backbone(name)
        preprocess: Any = stored.preprocess
        noise = preprocess(_noise())[None]
        weights = sorted(self.model.parameters(), key=lambda weight: -weight.ndim)
        weight = weights[0]  # of the convolution, which has the precision of images
        with _evaluating(self.model), torch.no_grad():
            images, texts = self.compute(stored, noise.to(weight.device, weight.dtype))
        difference = max(
            _difference(images, stored.encode_images(noise)),
            _difference(texts, stored.encode_texts(_TEXTS)),
        )
        is_half = weight.dtype in (torch.float16, torch.bfloat16)
        if not difference <= (_TOLERANCE_OF_HALF if is_half else _TOLERANCE):
            raise CompatbenchError(
                f"{self.kind}, read again from its weights, computes other features (up to "
                f"{difference:.2g} apart); it was changed by more than its weights, or its config "
                "is another one"
            )


def _store(live: _LiveModel) -> StoredBackbone:
    """Write a model to the cache, unless it is there, and return its name."""
    root = default_cache_folder().absolute() / FOLDER
    try:
        root.mkdir(parents=True, exist_ok=True)
        with scratch_folder(inside=root) as scratch:
            files = scratch / MODEL
            files.mkdir()
            facts = live.write_settings(files)
            for path in sorted(files.iterdir()):
                facts[path.name] = sha256_bytes(path.read_bytes())
            name = f"{live.kind}-{_hash(live.model, facts)[:_DIGITS]}"
            home = root / name
            with FileLock(root / f"{name}.lock"):
                is_new = not (home / f"{name}.yaml").is_file()
                if is_new:
                    _write(live, name, files, home)
                elif backbone_cards.own_folder(name) is None:
                    add_own_place(home)
    except OSError as error:
        raise cannot_write(root, error) from None
    if not is_new:
        live.check(name)  # the name does not show all that a model computes, such as its forward
    return StoredBackbone(name)


def _write(live: _LiveModel, name: str, files: Path, home: Path) -> None:
    """Write a model and its card to the folder ``home``, unless it computes something else there.

    Args:
        files: a folder with the model's settings, which gets its weights and is moved.
    """
    fields = {"name": name, "title": f"{live.kind} in memory", "path": MODEL}
    fields |= {"licence": "unknown", **live.write_model(files)}
    shutil.rmtree(home, ignore_errors=True)  # what an interrupted call has left
    home.mkdir()
    files.rename(home / MODEL)
    write_atomic(home / f"{name}.yaml", dump_yaml(fields, width=100).encode())
    add_own_place(home)
    try:
        live.check(name)
    except BaseException:
        forget_own_place(home)
        shutil.rmtree(home)
        raise


def _hash(model: nn.Module, facts: Mapping[str, Any]) -> str:
    """Return the hash of a model's weights, and of other facts about it."""
    digest = hashlib.sha256(canonical_json(facts).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy())
    return digest.hexdigest()


class _TransformersModel(_LiveModel):
    """A model of transformers, with its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model)
        family = FAMILIES.get(model.config.model_type)
        if family is None or family.model != self.kind:
            known = ", ".join(each.model for each in FAMILIES.values())
            raise CompatbenchError(
                f"{self.kind} does not compare images with texts, or is of an unknown kind; give "
                f"one of {known}"
            )
        self._images: Any = getattr(processor, "image_processor", None)
        self._tokenizer: Any = getattr(processor, "tokenizer", None)
        if self._images is None or self._tokenizer is None:
            raise CompatbenchError(
                f"{self.kind} needs its processor, which has an image processor and a tokenizer: "
                "cb.as_backbone(model, processor)"
            )

    def write_settings(self, folder: Path) -> dict[str, Any]:
        self._tokenizer.save_pretrained(folder)
        settings = self._images.to_json_string()
        (folder / PREPROCESSING).write_text(settings, encoding="utf-8")
        config = self.model.config.to_dict()
        for origin in ("_name_or_path", "transformers_version"):
            config.pop(origin, None)
        return {"config": json.dumps(config, sort_keys=True, default=str)}

    def write_model(self, folder: Path) -> dict[str, Any]:
        with quiet(), without_bars():
            self.model.save_pretrained(folder)
        return {"provider": "hf"}

    def compute(self, stored: Backbone, pixels: Tensor) -> tuple[Tensor, Tensor]:
        model = self.model
        of_transformers: Any = stored.tokenizer.tokenizer  # the given one would keep the padding
        tokens = of_transformers(
            _TEXTS,
            padding="max_length",
            truncation=True,
            max_length=stored.text.context_length,
            return_tensors="pt",
        ).to(pixels.device)
        given = {"input_ids": tokens.input_ids}
        if FAMILIES[model.config.model_type].text:  # the others are used without a mask
            given["attention_mask"] = tokens.attention_mask
        if hasattr(model, "get_image_features"):
            images = model.get_image_features(pixel_values=pixels)
            return _pooled(images), _pooled(model.get_text_features(**given))
        # BLIP has only the parts.
        rows = model.vision_model(pixel_values=pixels).last_hidden_state
        texts = model.text_encoder(**given).last_hidden_state
        return model.vision_proj(rows[:, 0]), model.text_proj(texts[:, 0])


class _OpenClipModel(_LiveModel):
    """A model of open_clip, with its transform and tokenizer."""

    def __init__(
        self,
        model: Any,
        preprocess: Any,
        tokenizer: Any,
        config: str | Mapping[str, Any] | None,
    ) -> None:
        super().__init__(model)
        for part in ("visual", "encode_image", "encode_text"):
            if not hasattr(model, part):
                raise CompatbenchError(
                    f"{self.kind} has no '{part}'; give a model of open_clip, or a CLIPModel of "
                    "transformers, with its image and text tower"
                )
        if not callable(preprocess) or not callable(tokenizer):
            raise CompatbenchError(
                f"{self.kind} needs its transform for evaluation and its tokenizer: "
                "cb.as_backbone(model, preprocess, tokenizer)"
            )
        self._preprocess: Any = preprocess
        self._tokenizer: Any = tokenizer
        self._config = config
        self._settings = _read_preprocessing(model, preprocess)

    def write_settings(self, folder: Path) -> dict[str, Any]:
        merges = getattr(self._tokenizer, "bpe_ranks", None)
        of_transformers: Any = getattr(self._tokenizer, "tokenizer", None)
        if merges is not None:
            lines = ["#version: 0.2", *map(" ".join, sorted(merges, key=merges.get))]
            (folder / MERGES).write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
        elif hasattr(of_transformers, "save_pretrained"):
            of_transformers.save_pretrained(folder)
        layers = sorted({type(part).__name__ for part in self.model.modules()})
        return {"layers": layers, "preprocess": self._settings}

    def write_model(self, folder: Path) -> dict[str, Any]:
        self._write_config(folder)
        weights = {}
        for name, tensor in self.model.state_dict().items():
            weights[name] = tensor.detach().cpu().contiguous().clone()
        try:
            save_file(weights, folder / WEIGHTS)
        except SafetensorError as error:  # the disk is full
            raise CompatbenchError(f"cannot write {folder}: {first_line(error)}") from None
        has_merges = (folder / MERGES).is_file()
        return {"tokenizer": f"{MODEL}/{MERGES}"} if has_merges else {}

    def _write_config(self, folder: Path) -> None:
        """Write the first configuration that gives this model.

        Raises:
            CompatbenchError: none does.
        """
        merges = ""
        if (folder / MERGES).is_file():
            merges = sha256_bytes((folder / MERGES).read_bytes())
        for config in _list_configs(self.model, self._config):
            # All that decides features is in this file or beside it, and so part of keys.
            content = {"model_cfg": config, "preprocess_cfg": self._settings, "merges": merges}
            (folder / CONFIG).write_text(json.dumps(content), encoding="utf-8")
            try:
                built = build_architecture(read_backbone(f"{LOCAL_DIR}{folder}"), device="meta")
            except BackboneError:
                continue
            if _structure(built) == _structure(self.model):
                return
        whose = "no configuration of open_clip" if self._config is None else "this config does not"
        verb = "gives" if self._config is None else "give"
        raise CompatbenchError(
            f"{whose} {verb} this {self.kind}; give its own: cb.as_backbone(model, preprocess, "
            "tokenizer, config=...), the 'model_cfg' of its open_clip_config.json"
        )

    def compute(self, stored: Backbone, pixels: Tensor) -> tuple[Tensor, Tensor]:
        ids = self._tokenizer(_TEXTS)
        if not torch.equal(ids, stored.tokenizer(_TEXTS)):
            raise CompatbenchError(
                f"the tokenizer is not one that {self.kind} is used with: its settings are lost "
                "when it is stored; give open_clip.get_tokenizer(NAME)"
            )
        return self.model.encode_image(pixels), self.model.encode_text(ids.to(pixels.device))


def _structure(model: nn.Module) -> tuple[object, ...]:
    """Return the layers of a model and the shapes of its weights."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    # With weights of 16 bits, open_clip takes another class of the same function.
    return shapes, repr(model).replace("LayerNormFp32", "LayerNorm")


def _list_configs(model: Any, given: str | Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield configurations that may be the model's: the given one, or those of its sizes."""
    import open_clip

    if isinstance(given, Mapping):
        yield dict(given.get("model_cfg", given))
        return
    sizes = _sizes(model)
    for name in model_names():
        config: Any = open_clip.get_model_config(name)
        text = config["text_cfg"]
        if name == given:
            yield config
        # A text tower of transformers would be downloaded to be built.
        if given is not None or "hf_model_name" in text:
            continue
        image = config["vision_cfg"].get("image_size", 224)
        found = (_pair(image), text.get("context_length", 77), text.get("vocab_size", 49408))
        if found == sizes:
            yield config


def _sizes(model: Any) -> tuple[object, ...]:
    image = getattr(model.visual, "image_size", None)
    return _pair(image), getattr(model, "context_length", 0), getattr(model, "vocab_size", 0)


def _pair(size: Any) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size or ())


def _read_preprocessing(model: Any, preprocess: Any) -> dict[str, Any]:
    """Return open_clip's settings that give exactly this transform.

    Raises:
        CompatbenchError: none do.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    noise = _noise()
    problem = "it is the transform of training, or no transform of open_clip"
    try:
        expected = preprocess(noise)
        for settings in (getattr(model.visual, "preprocess_cfg", None), _settings_of(preprocess)):
            if settings is None:
                continue
            transform: Any = image_transform_v2(PreprocessCfg(**settings), is_train=False)
            if torch.equal(transform(noise), expected):
                return dict(settings)
    except Exception as error:  # the user's own code
        problem = first_line(error)
    raise CompatbenchError(
        f"preprocess cannot be used ({problem}); give the last value of "
        "open_clip.create_model_and_transforms(NAME)"
    )


def _settings_of(preprocess: Any) -> dict[str, Any] | None:
    """Return the settings of the steps of a transform; None if they are others."""
    steps = {type(step).__name__: step for step in getattr(preprocess, "transforms", ())}
    if not {"Resize", "Normalize"} <= steps.keys():
        return None
    resize = steps["Resize"]
    crop = steps.get("CenterCrop")
    return {
        "size": _pair(resize.size if crop is None else crop.size),
        "mean": tuple(steps["Normalize"].mean),
        "std": tuple(steps["Normalize"].std),
        "interpolation": resize.interpolation.value,
        "resize_mode": "squash" if crop is None else "shortest",
    }


def _pooled(features: Any) -> Tensor:
    """Return the features that a model of transformers has computed, one for each input."""
    pooled = getattr(features, "pooler_output", features)
    return pooled[:, 0] if pooled.ndim == 3 else pooled  # FLAVA gives a feature for each token


def _noise() -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (97, 61, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _difference(first: Tensor, second: Tensor) -> float:
    """Return the largest difference between features, brought to length 1."""
    one = F.normalize(first.detach().float().cpu(), dim=-1)
    other = F.normalize(second.detach().float().cpu(), dim=-1)
    return float((one - other).abs().max())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation, and each of its parts back."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
