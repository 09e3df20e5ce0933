"""The frozen vision-language model that methods use: its features, tokens and prompts."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatbench.backbone.build import allow_tf32, build_model, build_tokenizer, examine_tokenizer
from compatbench.backbone.device import fit_batch
from compatbench.backbone.image.image_tower import FEATURES, ImageInput, ImageTower
from compatbench.backbone.load.backbone_names import read_backbone
from compatbench.backbone.load.weights import weights_key
from compatbench.backbone.parts.blocks import BlockUpdates, widen
from compatbench.backbone.parts.memory import SHARE, free_memory
from compatbench.backbone.text.prompts import Prompts, pad_rows
from compatbench.backbone.text.text_anatomy import examine_text_tower
from compatbench.backbone.text.text_tower import TextTower
from compatbench.data.cards import BackboneCard
from compatbench.data.labels import Labels
from compatbench.errors import CompatbenchError, CompatbenchWarning, NotTransferable

if TYPE_CHECKING:
    from torchvision.transforms import Compose

# The number formats of the frozen towers. Modules, optimisers, features and logits are always
# float32. ``tf32`` is float32 with products by NVIDIA's tensor cores, which read 10 bits of a
# number's fraction.
PRECISIONS = dict(fp32=torch.float32, tf32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)
PART = 512  # texts that are encoded together, if there are many
BATCH = 64  # images that are encoded together on devices whose memory is not measured


def load_backbone(name: str, device: str = "cpu", precision: str = "fp32") -> Backbone:
    """Load a backbone: the model, its weights, tokenizer and preprocessing.

    Weights that are not on this machine are downloaded, unless ``HF_HUB_OFFLINE`` is set.

    Args:
        name: the name of a card, or a name that needs no card, such as ``MODEL/TAG``,
            ``MODEL@FILE``, ``local-dir:FOLDER`` or ``hf:FOLDER``; see ``read_backbone``.
        device: a device of torch, such as ``cpu`` or ``cuda:0``.
        precision: a name of ``PRECISIONS``, for the frozen towers. Their results (features,
            token embeddings) are always float32. The last call decides for the whole process
            whether CUDA computes products in TF32, which it does only with ``tf32``.

    Raises:
        CompatbenchError: no such backbone or precision, or weights that are missing, damaged,
            of another architecture or made with another activation.
    """
    if precision not in PRECISIONS:
        raise CompatbenchError(
            f"there is no precision '{precision}'; give one of {', '.join(PRECISIONS)}"
        )
    allow_tf32(precision == "tf32")
    card = read_backbone(name)
    key = weights_key(card)
    model = build_model(card)
    scale = model.logit_scale.detach().clone()  # type: ignore[operator, union-attr]
    model = model.to(device, PRECISIONS[precision])
    # The scale multiplies every logit, so it is not rounded.
    model.logit_scale.data = scale.to(device)  # type: ignore[union-attr]
    return Backbone(card, model, torch.device(device), key)


class Backbone:
    """A frozen vision-language model, with its tokenizer and preprocessing.

    Everything that depends only on the backbone and on class names (token embeddings, zero-shot
    features) is computed here, so that a method gets it for every backbone.

    Attributes:
        weights_key: hash of everything that determines its features but preprocessing and
            precision.
        token_width: width D of the text tower's token embeddings.
        logit_scale: the checkpoint's own factor s on cosine similarities.
    """

    def __init__(
        self, card: BackboneCard, model: nn.Module, device: torch.device, weights_key: str = ""
    ) -> None:
        self.card = card
        self.name = card.name
        self.model = model
        self.device = device
        self.weights_key = weights_key or card.sha256 or ""
        self.dtype = next(model.visual.parameters()).dtype  # type: ignore[union-attr]
        anatomy = examine_text_tower(model, card.name)
        self.tokenizer = build_tokenizer(card, anatomy.context_length)
        self.text_tokens = examine_tokenizer(self.tokenizer, card.name)
        # open_clip assumes a padding token, which may not be the tokenizer's.
        self.text = TextTower(dataclasses.replace(anatomy, pad=self.text_tokens.pad))
        self.token_width = self.text.width
        self.logit_scale = float(model.logit_scale.exp())  # type: ignore[operator, union-attr]
        self._text_features: dict[tuple[str, ...], Tensor] = {}
        self._text_prompts: dict[tuple[str, ...], Prompts] = {}
        self._at_once: dict[ImageInput, int] = {}
        self._name_rows: dict[tuple[str, ...], tuple[Tensor, tuple[int, ...]]] = {}
        self._id_rows: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def embed_dim(self) -> int:
        """Return the size e of the joint image-text space."""
        return self.text_features(("a",)).shape[-1]

    @cached_property
    def preprocess(self) -> Compose:
        """Return open_clip's evaluation transform, from a PIL image to ``[3, H, W]``."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        config = PreprocessCfg(**self.model.visual.preprocess_cfg)  # type: ignore[union-attr, arg-type]
        return image_transform_v2(config, is_train=False)  # type: ignore[return-value]

    @property
    def preprocess_settings(self) -> dict[str, Any]:
        """Return the settings of preprocessing: size, mean, std, interpolation."""
        return dict(self.model.visual.preprocess_cfg)  # type: ignore[union-attr, call-overload]

    @cached_property
    def image(self) -> ImageTower:
        """Return the image tower, for methods that act inside it.

        Raises:
            NotTransferable: methods cannot act inside a tower of this kind.
        """
        return ImageTower(self.model.visual, self.name)  # type: ignore[arg-type]

    @torch.no_grad()
    def encode_images(self, images: Tensor, image_input: ImageInput = FEATURES) -> Tensor:
        """Return image features, not normalised, ``[batch, e]`` for ``[batch, 3, H, W]``.

        Args:
            images: preprocessed images.
            image_input: the result to compute, by default features. Hidden tokens and pixels
                have the precision of the tower; everything else is float32.
        """
        images = images.to(self.device, self.dtype)
        if image_input.kind == "features":
            features = self.model.visual(images)  # type: ignore[operator]
            if isinstance(features, tuple):  # some towers also return their tokens (CoCa)
                features = features[0]
            return widen(features)
        if image_input.kind == "pixels":
            return images
        if image_input.kind == "pooled":
            pooled, _ = self.image.encode_rows(images)
            return pooled
        if image_input.kind == "dense":
            return self.image.encode(images, dense=True)
        return self.image.embed(images, image_input.block)

    @property
    def image_sides(self) -> tuple[int, int]:
        """Return height and width of the model's images, in pixels."""
        size = self.preprocess_settings["size"]
        return (size, size) if isinstance(size, int) else tuple(size)

    def images_at_once(self, image_input: ImageInput = FEATURES) -> int:
        """Return how many images to encode together; with CUDA, as many as fit the free memory."""
        if self.device.type != "cuda":
            return BATCH
        if image_input not in self._at_once:

            def encode(count: int) -> Tensor:
                images = torch.zeros(count, 3, *self.image_sides)
                return self.encode_images(images, image_input)

            room = SHARE * free_memory(self.device)
            self._at_once[image_input] = fit_batch(encode, room)
        return self._at_once[image_input]

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of a text, without start and end."""
        return self.text_tokens.encode(text)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the token embeddings ``[..., D]`` of ids ``[...]``, without gradients."""
        with torch.no_grad():
            return widen(self.text.embed(ids.to(self.device)))

    def embed_text(self, text: str) -> Tensor:
        """Return the token embeddings of a text, without start and end, ``[tokens, D]``."""
        return self._embed_ids(tuple(self.tokens(text)))

    def _embed_ids(self, ids: tuple[int, ...]) -> Tensor:
        """Return a copy of the token embeddings of ids, ``[n, D]``.

        The ids are sent to the device only once.
        """
        if ids not in self._id_rows:
            self._id_rows[ids] = self.embed(torch.tensor(ids, dtype=torch.long))
        return self._id_rows[ids].clone()

    def name_tokens(self, labels: Labels) -> tuple[Tensor, tuple[int, ...]]:
        """Return token embeddings of the class names, ``[C, n, D]``, and their token counts."""
        return self._embed_rows(labels.names, end=False)

    def prompts(
        self, labels: Labels, context: Tensor, deep: Sequence[Tensor] = (), stop: str = "."
    ) -> Prompts:
        """Return CoOp's prompts: ``[SOS] context name . [EOT]`` for every class.

        Towers without start-of-text (SigLIP) get prompts without it.

        Args:
            labels: the class names.
            context: one context for all classes ``[M, D]``, or one for each ``[C, M, D]``.
            deep: replaces the first rows of a context for all classes before the second
                block, the third, and so on, each ``[m, D]`` with ``m <= M``.
            stop: the text behind every name.

        Raises:
            CompatbenchError: the number of contexts is not that of the classes.
        """
        start, suffix, lengths = self._around(labels, stop)
        if context.ndim == 2:
            prefix = torch.cat([start, context])
            return Prompts(prefix, suffix, lengths, tuple(deep), start=len(start))
        if len(context) != len(labels.names):
            raise CompatbenchError(
                f"{len(context)} contexts were given for {len(labels.names)} classes"
            )
        suffix = torch.cat([context, suffix], dim=1)
        lengths = tuple(length + context.shape[1] for length in lengths)
        return Prompts(start, suffix, lengths, tuple(deep), start=len(start))

    def image_prompts(self, labels: Labels, contexts: Tensor) -> Prompts:
        """Return CoCoOp's prompts: every class with the context of every image, ``[B, M, D]``."""
        start, suffix, lengths = self._around(labels)
        prefix = torch.cat([start.expand(len(contexts), -1, -1), contexts], dim=1)
        return Prompts(prefix, suffix, lengths, start=len(start))

    def _around(self, labels: Labels, stop: str = ".") -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Return the embeddings before a context, those after it, and the lengths of the latter.

        They are ``[start, D]`` and ``[C, n, D]``.
        """
        start = self._embed_ids(self.text_tokens.start)
        texts = tuple(f"{name}{stop}" for name in labels.names)
        suffix, lengths = self._embed_rows(texts, end=True)
        return start, suffix, lengths

    def text_prompts(self, texts: tuple[str, ...]) -> Prompts:
        """Return plain texts as prompts; the tokens that all of them begin with are the prefix."""
        if texts not in self._text_prompts:
            self._text_prompts[texts] = self._embed_texts(texts)
        return self._text_prompts[texts]

    def _embed_texts(self, texts: tuple[str, ...]) -> Prompts:
        special = self.text_tokens
        ids = [[*special.start, *self.tokens(text), *special.end] for text in texts]
        shared = 0
        # Each text keeps at least one token of its own, so leave out the last.
        for column in zip(*(row[:-1] for row in ids), strict=False):
            if len(set(column)) > 1:
                break
            shared += 1
        suffix = self.embed(pad_rows([row[shared:] for row in ids]))
        prefix = self.embed(torch.tensor(ids[0][:shared], dtype=torch.long))
        lengths = tuple(len(row) - shared for row in ids)
        return Prompts(prefix, suffix, lengths, start=len(self.text_tokens.start))

    def encode_prompts(
        self,
        prompts: Prompts,
        weights: Mapping[str, Tensor] | None = None,
        block_updates: BlockUpdates | None = None,
    ) -> Tensor:
        """Return text features of prompts, not normalised; differentiable in prompts and weights.

        They are ``[n, e]``, or ``[B, n, e]`` for prompts of B images.

        Args:
            prompts: the prompts.
            weights: replaces the weights of these names among ``text.weights``.
            block_updates: called on parts of blocks, as in ``image.encode``.
        """
        if prompts.prefix.ndim == 3 and len(prompts.prefix) == 0:  # prompts of no image
            return prompts.prefix.new_zeros(0, len(prompts.lengths), self.embed_dim)
        return self.text.encode(prompts, weights, block_updates)

    @torch.no_grad()
    def text_features(self, texts: tuple[str, ...]) -> Tensor:
        """Return features of plain texts, not normalised, ``[n, e]``; computed once per backbone.

        Raises:
            CompatbenchError: a text does not fit the context; texts are never truncated here.
        """
        if texts not in self._text_features:
            self._text_features[texts] = self.encode_prompts(self.text_prompts(texts))
        return self._text_features[texts]

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return features of any number of plain texts, not normalised, ``[n, e]``, not cached."""
        parts = [tuple(texts[i : i + PART]) for i in range(0, len(texts), PART)]
        return torch.cat([self.encode_prompts(self._embed_texts(part)) for part in parts])

    def shorten(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Return texts that fit the context, cut after a sentence or else after a word.

        A warning has the number of texts that were cut.
        """
        room = self.text.context_length - len(self.text_tokens.start) - len(self.text_tokens.end)
        short = tuple(self._cut(text, room) for text in texts)
        count = sum(old != new for old, new in zip(texts, short, strict=True))
        if count:
            warnings.warn(
                f"{count} of {len(short)} texts are longer than the text tower of '{self.name}' "
                f"reads, and were cut to {room} tokens",
                CompatbenchWarning,
                stacklevel=2,
            )
        return short

    def _cut(self, text: str, room: int) -> str:
        """Return a text of at most ``room`` tokens."""
        if len(self.tokens(text)) <= room:
            return text
        for pattern in (r"(?<=[.!?;])\s+", r"\s+"):
            parts = re.split(pattern, text)
            while len(parts) > 1 and len(self.tokens(" ".join(parts))) > room:
                parts.pop()
            if len(self.tokens(" ".join(parts))) <= room:
                break
        return " ".join(parts)

    def describe(self, labels: Labels) -> tuple[Tensor, ...]:
        """Return features of each class's descriptions, normalised, ``[texts, e]``, cached.

        Texts that are too long are shortened.

        Raises:
            NotTransferable: the task has no descriptions, or the method's card does not say
                that it needs them.
        """
        if not labels.descriptions:
            raise NotTransferable("there are no descriptions of the task's classes")
        texts = tuple(chain(*labels.descriptions))
        if texts not in self._text_features:
            self._text_features[texts] = self.encode_texts(self.shorten(texts))
        features = F.normalize(self._text_features[texts], dim=-1)
        counts = [len(texts) for texts in labels.descriptions]
        return features.split(counts)  # type: ignore[return-value]

    def zero_shot(self, labels: Labels, template: str | None = None) -> Tensor:
        """Return the zero-shot classifier of one hand-written template, normalised, ``[C, e]``."""
        return F.normalize(self.text_features(labels.fill(template)), dim=-1)

    def zero_shot_ensemble(self, labels: Labels) -> Tensor:
        """Return the mean of the normalised features of all templates, normalised, ``[C, e]``."""
        features = [self.zero_shot(labels, template) for template in labels.templates]
        return F.normalize(torch.stack(features).mean(0), dim=-1)

    def _embed_rows(self, texts: tuple[str, ...], end: bool) -> tuple[Tensor, tuple[int, ...]]:
        """Return token embeddings of texts, padded, ``[n, S, D]``, and their lengths; cached.

        With ``end``, end-of-text follows each text.
        """
        key = (*texts, str(end))
        if key not in self._name_rows:
            tail = self.text_tokens.end if end else ()
            ids = [[*self.tokens(text), *tail] for text in texts]
            lengths = tuple(len(row) for row in ids)
            self._name_rows[key] = (self.embed(pad_rows(ids)), lengths)
        return self._name_rows[key]
