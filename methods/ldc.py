"""LDC: the confusion between classes is learned and added to the zero-shot logits.

Adapters make a second image feature from tokens of four blocks. Small networks read it: one
classifies, one corrects the zero-shot logits, and one decides how the two answers are mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.layers import draw_linear
from ._shared.texts import Templates, zero_shot

# The blocks of twelve whose outputs are adapted, counted from 1, and their weights in the sum.
LEVELS = (6, 8, 10, 12)
SHARES = (0.1, 0.2, 0.3, 0.4)
# The values of β that are tried.
MIXES = [i / 50 for i in range(51)]


class LDC(TrainedMethod):
    """z = β z_M + (1 − β) z_D, a mix of a classifier's logits and corrected zero-shot logits.

    Li et al., *Logits DeConfusion with CLIP for Few-Shot Learning*, section 3. With x_l the tokens
    behind blocks 6, 8, 10 and 12 of 12, P the image tower's last projection, and z_0 = s · cos(f,
    t_c) the zero-shot logits,

        a = P Σ_l w_l · mean over tokens of ReLU(LN_l(A_l x_l)),   w = 0.1, 0.2, 0.3, 0.4,
        z_M = N_head(a),   z_D = z_0 + N_confusion(N_logits(z_0) + N_feature(a)),
        z_F = g z_M + (1 − g) z_D,   g = sigmoid(N_gate(a)).

    Each N is V ReLU(BN(U x)) without biases, with e hidden units; N_head has ``width`` = 2048.
    The loss is CE(z_M) + CE(z_D) + CE(z_F) + mean |z_M − z_0| + mean |z_D − z_0|. As in the
    authors' code, one β for all images replaces g after training: the first of 0, 0.02, ..., 1
    that classifies the validation images best. Without validation images g remains.

    BN normalises by the batch in a fit, and afterwards by the running mean and variance. A last
    batch of one image is normalised by these, too. Towers of another depth give the tokens at
    the same shares of their blocks: 3, 4, 5 and 6 of 6. The authors' version for ResNets is left
    out.

    The module holds A_l, LN_l, U, V, BN and β. Text features, s, x_l and P are those of the model
    that it is attached to. It serves these classes alone.
    """

    card = MethodCard(
        name="ldc",
        title="LDC",
        paper="arXiv:2504.12104",
        inserts=("feature", "classifier"),
        summary="corrects zero-shot logits by tokens of several blocks",
        zero_shot_at={"confusion_out": 0.0, "mix": 0.0},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(
            optimizer="adamw",
            lr=1e-4,
            eps=1e-4,
            weight_decay=1e-4,
            epochs=50,
            batch_size=64,
            drop_last=False,
            warmup_epochs=0,
            schedule="cosine-step",
        )
        templates: Templates = "first"
        width: PositiveInt = 2048

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        # The tokens behind the first adapted block are those that enter the next one.
        return ImageInput("hidden", block=adapted_blocks(backbone)[0] + 1)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        size = backbone.embed_dim
        tokens = backbone.image.width
        classes = len(data.labels)
        trained = {
            "adapters": draw_linear((len(LEVELS), tokens, tokens), tokens, rng),
            "gains": torch.ones(len(LEVELS), tokens),
            "shifts": torch.zeros(len(LEVELS), tokens),
        }
        stored = {}
        networks = {
            "head": (size, self.config.width, classes),
            "logits": (classes, size, size),
            "feature": (size, size, size),
            "confusion": (size, size, classes),
            "gate": (size, size, 1),
        }
        for name, (inputs, hidden, outputs) in networks.items():
            trained[f"{name}_in"] = draw_linear((hidden, inputs), inputs, rng)
            trained[f"{name}_gain"] = torch.ones(hidden)
            trained[f"{name}_shift"] = torch.zeros(hidden)
            trained[f"{name}_out"] = draw_linear((outputs, hidden), hidden, rng)
            stored[f"{name}_mean"] = torch.zeros(hidden)
            stored[f"{name}_variance"] = torch.ones(hidden)
        return Module(trained, stored).to(backbone.device)

    def loss(self, classifier: Deconfusion, batch: Batch) -> Tensor:
        answers = classifier.answer(batch.inputs, learning=len(batch.targets) > 1)
        fused = mix_logits(answers.head, answers.corrected, answers.gate)
        total = F.l1_loss(answers.head, answers.zero_shot)
        total = total + F.l1_loss(answers.corrected, answers.zero_shot)
        for logits in (answers.head, answers.corrected, fused):
            total = total + F.cross_entropy(logits, batch.targets)
        return total

    def finish(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        if len(data.val) == 0:
            return module
        classifier = self.attach(module, backbone, data.labels)
        heads = []
        corrected = []
        with torch.no_grad():
            for rows in torch.arange(len(data.val)).split(self.config.recipe.batch_size):
                answers = classifier.answer(data.val.inputs(rows))
                heads.append(answers.head)
                corrected.append(answers.corrected)
        best = 0.0
        most_hits = -1
        for mix in MIXES:
            logits = mix_logits(torch.cat(heads), torch.cat(corrected), mix)
            hits = int((logits.argmax(-1) == data.val.targets).sum())
            if hits > most_hits:
                most_hits = hits
                best = mix
        stored = module.stored | {"mix": torch.tensor(best, device=backbone.device)}
        return Module(module.trained, stored)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Deconfusion:
        require_shape(module, "adapters", backbone.image.width, "image tokens of width")
        require_shape(module, "head_in", backbone.embed_dim, "image features of size")
        require_shape(module, "head_out", len(labels), "a number of classes of", dim=0)
        texts = zero_shot(backbone, labels, self.config.templates)
        return Deconfusion(module, backbone, texts)


def adapted_blocks(backbone: Backbone) -> list[int]:
    """Return the blocks whose outputs are adapted, counted from 0."""
    depth = backbone.image.depth
    blocks = []
    for level in LEVELS:
        count = -(-level * depth // 12)  # rounded up
        blocks.append(count - 1)
    return blocks


@dataclass(frozen=True)
class Answers:
    """Logits ``[batch, C]`` of the parts of LDC, and the gate, ``[batch, 1]``."""

    zero_shot: Tensor
    head: Tensor
    corrected: Tensor
    gate: Tensor


def mix_logits(head: Tensor, corrected: Tensor, mix: Tensor | float) -> Tensor:
    """Return β z_M + (1 − β) z_D, with one β for all images or one for each."""
    return mix * head + (1 - mix) * corrected


class Deconfusion:
    """A classifier of the tokens behind the first adapted block, ``[batch, tokens, d]``.

    Args:
        texts: text features, ``[C, e]``.
    """

    def __init__(self, module: Module, backbone: Backbone, texts: Tensor) -> None:
        self._module = module
        self._tower = backbone.image
        self._blocks = adapted_blocks(backbone)
        self._compare = CosineClassifier(texts, backbone.logit_scale)

    def __call__(self, tokens: Tensor) -> Tensor:
        answers = self.answer(tokens)
        mix = self._module.stored.get("mix", answers.gate)
        return mix_logits(answers.head, answers.corrected, mix)

    def answer(self, tokens: Tensor, learning: bool = False) -> Answers:
        """Return all logits of a batch.

        With ``learning``, BN normalises by the batch and updates the running mean and variance.
        """
        first = self._blocks[0]
        outputs = [tokens, *self._tower.run_blocks(tokens, first + 1)]
        features = self._tower.encode(outputs[-1], block=self._tower.depth)
        logits = self._compare(features)
        adapted = self._adapt([outputs[block - first] for block in self._blocks])
        confused = self._network("logits", logits, learning)
        confused = confused + self._network("feature", adapted, learning)
        return Answers(
            zero_shot=logits,
            head=self._network("head", adapted, learning),
            corrected=logits + self._network("confusion", confused, learning),
            gate=self._network("gate", adapted, learning).sigmoid(),
        )

    def _adapt(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the feature a, ``[batch, e]``, of the tokens of the adapted blocks."""
        module = self._module
        parts = zip(
            levels, SHARES, module["adapters"], module["gains"], module["shifts"], strict=True
        )
        rows = []
        for tokens, share, weight, gain, shift in parts:
            changed = tokens.to(weight) @ weight.T
            normed = F.layer_norm(changed, gain.shape, gain, shift)
            rows.append(share * F.relu(normed).mean(1))
        return self._tower.project(torch.stack(rows).sum(0))

    def _network(self, name: str, rows: Tensor, learning: bool) -> Tensor:
        """Return V ReLU(BN(U x)) of rows x."""
        module = self._module
        mean = module[f"{name}_mean"]
        variance = module[f"{name}_variance"]
        if not learning:  # learning updates these tensors, so it must get no copies
            mean = mean.to(rows)
            variance = variance.to(rows)
        hidden = F.batch_norm(
            rows @ module[f"{name}_in"].T,
            mean,
            variance,
            module[f"{name}_gain"],
            module[f"{name}_shift"],
            training=learning,
        )
        return F.relu(hidden) @ module[f"{name}_out"].T
