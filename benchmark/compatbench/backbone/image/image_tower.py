"""The image tower of a model, run from any block on, with tokens and updates inserted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from compatbench.backbone.image.image_anatomy import TimmAnatomy, examine_image_tower
from compatbench.backbone.parts.blocks import BlockUpdates, Updates, updates_of, widen
from compatbench.backbone.parts.memory import in_micro_batches, kept_numbers
from compatbench.backbone.parts.parameters import (
    CommonNames,
    change_tower,
    check_weights,
    replace_parameters,
    rotate_projection,
)
from compatbench.errors import NotTransferable


@dataclass(frozen=True)
class ImageInput:
    """A classifier's input for an image: the frozen tower's result at one of several stages.

    * ``features``: the image features, ``[batch, e]``.
    * ``pooled``: the pooled rows before their projection, ``[batch, d]``.
    * ``hidden``: the tokens that enter a block, ``[batch, tokens, d]``, for methods that act in
      that block or in later ones.
    * ``dense``: the image feature, then each patch projected like it, ``[batch, 1 + patches, e]``.
    * ``pixels``: the preprocessed image, ``[batch, 3, H, W]``.

    All of these are cached. An image tower that is not CLIP's, SigLIP's or EVA's gives only
    features and pixels.
    """

    kind: Literal["features", "pooled", "hidden", "dense", "pixels"] = "features"
    # The block that hidden tokens enter, counted from 0; -1 is before the norm before block 0.
    block: int = 0
    # With views, the plain image comes first and this many augmentations of it follow, for test
    # images too: ``[batch, 1 + views, ...]``. An image then has no other training views.
    views: int = 0

    @property
    def in_joint_space(self) -> bool:
        """Return True if it has the coordinates of image and text features."""
        return self.kind in ("features", "dense")


FEATURES = ImageInput("features")
DENSE = ImageInput("dense")
POOLED = ImageInput("pooled")
PIXELS = ImageInput("pixels")


class ImageTower:
    """A frozen image tower in which a method can act: a ViT of CLIP, EVA-CLIP or SigLIP.

    Tokens of a method come after the image's own and have no position: they get no
    positional embedding and are not rotated (RoPE), and they are not pooled.

    Attributes:
        width: width d of the tokens.
        depth: number of blocks.
        heads: number of heads of a block's attention.
        tokens: number of tokens of an image.

    Raises:
        NotTransferable: the tower is of another kind.
    """

    # A rotated backbone sets these: the rotation of its embedding space, and the change of a
    # projection that leads there.
    _rotation: Tensor | None = None
    _added: Tensor | None = None

    def __init__(self, visual: nn.Module, name: str) -> None:
        self._visual = visual
        self._name = name
        self._anatomy = examine_image_tower(visual, name)
        self.width = self._anatomy.width
        self.depth = len(self._anatomy.blocks)
        self.heads: int = self._anatomy.blocks[0].heads
        self.tokens = self._anatomy.tokens

    @cached_property
    def _names(self) -> CommonNames:
        return CommonNames(self._visual, timm=isinstance(self._anatomy, TimmAnatomy))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Return the frozen weights, by names that CLIP's and EVA's towers share with text towers.

        Examples are ``transformer.resblocks.0.ln_1.weight``, ``ln_pre.bias`` (if there is that
        norm), ``ln_post.weight`` and ``proj``, ``[d, e]``.
        """
        return rotate_projection(self._names.read(), "proj", self._rotation)

    def replace(self, weights: Mapping[str, Tensor]) -> ImageTower:
        """Return the tower with some of its ``weights`` replaced; the model does not change."""
        check_weights(weights, self.weights, "image")
        added = self._added
        if self._rotation is not None and "proj" in weights:
            # The rotated projection has no place in the model, so keep its change beside it.
            added = weights["proj"] - self.weights["proj"]
            weights = {name: tensor for name, tensor in weights.items() if name != "proj"}
        tower = change_tower(self, _added=added)
        if weights:
            dtype = next(iter(self.weights.values())).dtype
            cast = {name: tensor.to(dtype) for name, tensor in weights.items()}
            vars(tower).pop("_names", None)
            tower._visual = replace_parameters(self._visual, self._names.write(cast))
            tower._anatomy = examine_image_tower(tower._visual, self._name)
        return tower

    def embed(self, images: Tensor, block: int = 0) -> Tensor:
        """Return the tokens that enter a block, ``[batch, tokens, d]``.

        Args:
            images: preprocessed images, ``[batch, 3, H, W]``.
            block: counted from 0. CLIP has a norm before block 0 (``ln_pre``); -1 returns the
                tokens that enter this norm.

        Raises:
            NotTransferable: the tower has fewer blocks.
        """
        if not -1 <= block < self.depth:
            raise NotTransferable(
                f"the method acts from block {block} on, and the image tower has {self.depth}"
            )
        x = self._anatomy.embed(images)
        if block < 0:
            return x
        x = self._anatomy.enter(x)
        for run in self._anatomy.blocks[:block]:
            x = run(x, {}, self.tokens)
        return x

    def enter(self, tokens: Tensor) -> Tensor:
        """Return tokens ``[n, d]`` as they enter the first block.

        CLIP normalises all tokens there (``ln_pre``), EVA does not.
        """
        dtype = next(self._visual.parameters()).dtype
        return self._anatomy.enter(tokens.to(dtype)).to(tokens.dtype)

    def encode(
        self,
        hidden: Tensor,
        *,
        block: int = 0,
        prompts: Sequence[Tensor] = (),
        block_updates: BlockUpdates | None = None,
        weights: Mapping[str, Tensor] | None = None,
        dense: bool = False,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """Return image features, not normalised, ``[batch, e]``, float32 also from half precision.

        The features are differentiable in hidden tokens, prompts, weights and the tensors that
        updates use. A batch whose backward pass would not fit the memory budget runs in
        micro-batches.

        Args:
            hidden: the tokens that enter ``block``, ``[batch, tokens, d]``, as ``embed`` returns
                them, or preprocessed images, ``[batch, 3, H, W]``.
            prompts: tokens appended before ``block``, then the tokens that replace them before
                the blocks that follow, each ``[n, d]``, or ``[batch, n, d]``. Before the first
                block they are used unchanged: see ``enter``. Blocks without prompts of
                their own get those that the block before them has computed.
            block_updates: called on parts of blocks, such as LoRA's or an adapter's.
            weights: replaces the weights of these names.
            dense: return the image feature, then each patch, which goes through last norm and
                projection like the pooled row, ``[batch, 1 + patches, e]`` (PLOT,
                arXiv:2210.01253, section 3.2).
            rng: the generator that updates draw from, if any do: a micro-batch that is computed
                again gets the same draws.

        Raises:
            NotTransferable: the tower has fewer blocks, or ``dense`` is not possible.
        """
        tower = self.replace(weights) if weights else self
        anatomy = tower._anatomy
        if dense and anatomy.attends:
            raise NotTransferable("the image tower pools by attention, so patches have no features")
        last = 1 if anatomy.class_pooled and not dense else self.tokens

        def finish(x: Tensor) -> tuple[Tensor]:
            features = tower.project(anatomy.pool(x))
            if dense:
                patches = tower.project(anatomy.norm(x[:, anatomy.extra :]))
                features = torch.cat([features[:, None], patches], dim=1)
            return (features,)

        trained = any(weight.requires_grad for weight in (weights or {}).values())
        results = tower._run(finish, hidden, block, prompts, block_updates, last, trained, rng)
        return results[0]

    def encode_rows(
        self, hidden: Tensor, *, block: int = 0, prompts: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """Return the pooled row ``[batch, d]`` and every row behind the last norm, not projected.

        The rows are those of the image, then those of the prompts, ``[batch, tokens + n, d]``. A
        tower that pools by attention has its norm after pooling, so its rows are not normalised.
        The arguments are those of ``encode``; both results are float32 also from half precision.
        """
        anatomy = self._anatomy

        def finish(x: Tensor) -> tuple[Tensor, Tensor]:
            rows = x if anatomy.attends else anatomy.norm(x)
            return widen(anatomy.pool(x[:, : self.tokens])), widen(rows)

        pooled, rows = self._run(finish, hidden, block, prompts)
        return pooled, rows

    def run_blocks(self, tokens: Tensor, block: int = 0) -> list[Tensor]:
        """Return the outputs of ``block`` and of all later blocks, each ``[batch, tokens, d]``.

        ``encode`` continues from the last of them, with ``block=depth``.

        Args:
            tokens: the tokens that enter ``block``, ``[batch, tokens, d]``, as ``embed`` returns
                them.
            block: counted from 0.
        """
        outputs = []
        for run in self._anatomy.blocks[block:]:
            tokens = run(tokens, {}, self.tokens)
            outputs.append(tokens)
        return outputs

    def project(self, rows: Tensor) -> Tensor:
        """Return pooled rows ``[..., d]``, projected to the embedding space, ``[..., e]``."""
        dtype = next(self._visual.parameters()).dtype
        features = widen(self._anatomy.project(rows.to(dtype)))
        if self._rotation is not None:
            features = features @ self._rotation.T
        if self._added is not None:
            features = features + rows.to(self._added) @ self._added
        return features

    def _run(
        self,
        finish: Callable[[Tensor], Sequence[Tensor]],
        hidden: Tensor,
        block: int,
        prompts: Sequence[Tensor],
        block_updates: BlockUpdates | None = None,
        last: int | None = None,
        trained: bool = False,
        rng: torch.Generator | None = None,
    ) -> list[Tensor]:
        """Return ``finish`` of the last block's output, in micro-batches if memory is short.

        Args:
            finish: a function of the output's first ``last`` rows; None means all rows.
            trained: True if the blocks' weights need gradients.
        """
        updates = updates_of(block_updates, self.depth, "image")

        def compute(part: slice) -> Sequence[Tensor]:
            part_prompts = [rows[part] if rows.ndim == 3 else rows for rows in prompts]
            return finish(self._run_blocks(hidden[part], block, part_prompts, updates, last))

        learned = trained or block_updates or any(x.requires_grad for x in (hidden, *prompts))
        if not (learned and torch.is_grad_enabled()):
            return list(compute(slice(None)))
        tokens = self.tokens
        if prompts:
            tokens += prompts[0].shape[-2]
        blocks = self.depth
        if hidden.ndim == 3:  # images run through all blocks
            blocks -= max(block, 0)
        numbers = kept_numbers(
            tokens, self.width, blocks, trained=trained, gated=self._anatomy.gated
        )
        size = numbers * hidden.dtype.itemsize
        return in_micro_batches(compute, len(hidden), size, hidden.device, rng)

    def _run_blocks(
        self,
        x: Tensor,
        block: int,
        prompts: Sequence[Tensor],
        updates: Sequence[Updates],
        last: int | None,
    ) -> Tensor:
        """Return the first ``last`` rows of the last block's output; None means all rows."""
        anatomy = self._anatomy
        if x.ndim == 4:
            x = anatomy.embed(x)
            block = -1
        if block < 0:
            x = anatomy.enter(x)
            block = 0
        for i in range(block, self.depth):
            if i - block < len(prompts):
                rows = prompts[i - block].to(x.dtype).expand(len(x), -1, -1)
                x = torch.cat([x[:, : self.tokens], rows], dim=1)
            count = x.shape[1]
            if last and i == self.depth - 1:
                count = last
            # The next prompts replace this block's rows of prompts, so do not compute these.
            if i + 1 - block < len(prompts):
                count = self.tokens
            x = anatomy.blocks[i](x, updates[i], count)
        return x

    def check_prompts(self, prompts: Sequence[Tensor]) -> None:
        """Raise ``NotTransferable`` for prompts of another width, or of more blocks than here."""
        if prompts and prompts[0].shape[-1] != self.width:
            raise NotTransferable(
                f"the module was made for image tokens of width {prompts[0].shape[-1]}, "
                f"not {self.width}"
            )
        if len(prompts) > self.depth:
            raise NotTransferable(
                f"the module was made for image towers of {len(prompts)} blocks or more, "
                f"not {self.depth}"
            )
