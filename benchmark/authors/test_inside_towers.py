"""Methods that act inside the towers, beside their authors' code."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from checkout import Checkout, Loader, under
from test_prompt_learners import PRECISE
from torch import Tensor, nn
from whole_fits import NAMES, Compare, OurFit, Problem, fit, make, pose

from compatbench.method.trained import Recipe
from compatbench.methods import clip_lora
from compatbench.methods.atprompt import ATPrompt
from compatbench.methods.clip_lora import PROJECTIONS, CLIPLoRA
from compatbench.methods.coprompt import CoPrompt
from compatbench.methods.ivlp import IVLP
from compatbench.methods.maple import MaPLe
from compatbench.methods.promptsrc import PromptSRC
from compatbench.methods.vpt_deep import VPTDeep
from compatbench.methods.vpt_shallow import VPTShallow

PROMPTING = "muzairkhattak/multimodal-prompt-learning"
RECIPE: dict[str, Any] = dict(epochs=4, batch_size=4)
# Sizes of a ViT-B, which the code of MaPLe and CoPrompt assumes.
VIT_B: Any = dict(width=512, image_width=768, embed_dim=512, names=NAMES[:3])
WORDS = dict(CTX_INIT="a photo of a", PREC="fp16")

Parts = dict[str, Tensor | list[Tensor]]
"""The authors' parameters by our names; one for each block where they are listed."""


def give(parts: Parts, module: Any) -> None:
    """Fills the authors' parameters with ours."""
    for name, part in parts.items():
        for mine, own in zip(module[name], part, strict=True):
            own.data.copy_(mine)


def take(parts: Parts) -> dict[str, Tensor]:
    return {name: torch.stack([*part]) for name, part in parts.items()}


def compare_fits(
    checkout: Checkout,
    compare: Compare,
    trainer: str,
    ours: OurFit,
    problem: Problem,
    settings: dict[str, Any],
    find: Callable[[Any], Parts],
    name: str = "",
    **data: Any,
) -> None:
    """Trains the authors' prompts from our start; ``find`` finds them in their model."""
    with checkout.trainer(trainer, problem, ours, settings, **data) as theirs:
        give(find(theirs.model), ours.start)
        theirs.train()
        compare(ours, take(find(theirs.model)), theirs.model.eval()(problem.queries), name=name)


def deep_prompts(transformer: Any) -> list[Tensor]:
    """Those of the blocks behind the first; this is the authors' name for them."""
    return [block.VPT_shallow for block in transformer.resblocks if block.add_prompt]


def image_parts(model: Any) -> Parts:
    tower = model.image_encoder
    return {"image_prompts": [tower.VPT, *deep_prompts(tower.transformer)]}


def independent_parts(model: Any) -> Parts:
    text = [model.prompt_learner.ctx, *deep_prompts(model.text_encoder.transformer)]
    return {"text_prompts": text, **image_parts(model)}


def coupled_parts(model: Any) -> Parts:
    learner = model.prompt_learner
    layers = [learner.proj, *learner.compound_prompt_projections]
    return {
        "text_prompts": [learner.ctx, *learner.compound_prompts_text],
        "coupling_weight": [layer.weight for layer in layers],
        "coupling_bias": [layer.bias for layer in layers],
    }


def adapted_parts(model: Any) -> Parts:
    image, text = model.adapter_image.fc, model.adapter_text.fc
    adapters = dict(image_down=image[0], image_up=image[2], text_down=text[0], text_up=text[2])
    return coupled_parts(model) | {name: layer.weight for name, layer in adapters.items()}


@pytest.mark.authors(PROMPTING)
@pytest.mark.parametrize(("method", "depth"), [(VPTShallow, 1), (VPTDeep, 12)])
def test_vpt(checkout: Checkout, compare: Compare, method: type[VPTDeep], depth: int) -> None:
    problem = pose()
    ours = fit(method(method.Config(recipe=Recipe(**RECIPE))), problem)
    settings = under("VPT", **WORDS, N_CTX_VISION=8, PROMPT_DEPTH_VISION=depth)
    compare_fits(checkout, compare, "trainers.vpt:VPT", ours, problem, settings, image_parts)


@pytest.mark.authors(PROMPTING)
def test_ivlp(checkout: Checkout, compare: Compare) -> None:
    problem, trainer = pose(), "trainers.independentVL:IVLP"
    ours = fit(IVLP(IVLP.Config(recipe=Recipe(**RECIPE))), problem)
    settings = under("IVLP", **WORDS, N_CTX_VISION=2, N_CTX_TEXT=2)
    settings |= under("IVLP", PROMPT_DEPTH_VISION=12, PROMPT_DEPTH_TEXT=12)
    compare_fits(checkout, compare, trainer, ours, problem, settings, independent_parts)


@pytest.mark.authors(PROMPTING)
def test_maple(checkout: Checkout, compare: Compare) -> None:
    problem, trainer = pose(**VIT_B), "trainers.maple:MaPLe"
    ours = fit(MaPLe(MaPLe.Config(recipe=Recipe(**RECIPE, lr=0.1), depth=2)), problem)
    settings = under("MAPLE", **WORDS, N_CTX=2, PROMPT_DEPTH=2)
    compare_fits(checkout, compare, trainer, ours, problem, settings, coupled_parts)


@pytest.mark.authors("muzairkhattak/PromptSRC")
@pytest.mark.parametrize(("mean", "std"), [(0.6, 0.6), (0.9, 0.1)])
def test_promptsrc(checkout: Checkout, compare: Compare, mean: float, std: float) -> None:
    problem, epochs, trainer = pose(), RECIPE["epochs"], "trainers.promptsrc:PromptSRC"
    own: Any = dict(text_depth=2, image_depth=2, average_mean=mean, average_std=std)
    ours = fit(PromptSRC(PromptSRC.Config(recipe=Recipe(**RECIPE), **own)), problem)
    settings = under("PROMPTSRC", **WORDS, N_CTX_VISION=4, N_CTX_TEXT=4)
    settings |= under("PROMPTSRC", PROMPT_DEPTH_VISION=2, PROMPT_DEPTH_TEXT=2)
    settings |= under("PROMPTSRC", TEXT_LOSS_WEIGHT=25, IMAGE_LOSS_WEIGHT=10)
    settings |= under("PROMPTSRC", GPA_MEAN=mean * epochs, GPA_STD=std * epochs)
    name = f"promptsrc, mean {mean}"
    compare_fits(checkout, compare, trainer, ours, problem, settings, independent_parts, name)


@pytest.mark.authors("zhengli97/ATPrompt")
def test_atprompt(checkout: Checkout, compare: Compare) -> None:
    problem = pose()
    ours = fit(make(ATPrompt, attributes=("color", "habitat", "growth")), problem)
    words = dict(USE_ATPROMPT=True, ATT_NUM=3, N_ATT1=2, N_ATT2=2, N_ATT3=2)
    words |= dict(ATT1_TEXT="color", ATT2_TEXT="habitat", ATT3_TEXT="growth")
    settings = under("COOP", **PRECISE | dict(N_CTX=2)) | under("ATPROMPT", **words)

    def find(model: Any) -> Parts:
        learner = model.prompt_learner
        attributes = [learner.ctx_att1, learner.ctx_att2, learner.ctx_att3]
        return {"context": [*learner.ctx], "attribute_context": attributes}

    trainer = "trainers.coop_atp:CoOp_ATP"
    compare_fits(checkout, compare, trainer, ours, problem, settings, find)


class PairLoader(Loader):
    """CoPrompt's: each image under two views."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in super().__iter__():
            yield batch | {"img": (batch["img"], batch["img2"])}


@pytest.mark.authors("ShuvenduRoy/CoPrompt")
def test_coprompt(
    checkout: Checkout, compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' sentences by GPT are our templates; both draw the same ones."""
    problem, trainer, drawn = pose(**VIT_B), "trainers.coprompt:CoPrompt", []
    with recording(torch, "randint", drawn):
        config = CoPrompt.Config(recipe=Recipe(**RECIPE, lr=0.1), depth=2, weight=2.0)
        ours = fit(CoPrompt(config), problem)
    labels = problem.labels
    sentences = {name: [one.format(name) for one in labels.templates] for name in labels.names}
    (tmp_path / "gpt_file").mkdir()
    (tmp_path / "gpt_file/caltech_prompt.json").write_text(json.dumps(sentences))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(random, "randint", mock.Mock(side_effect=map(int, drawn)))
    settings = under("CoPrompt", **WORDS, N_CTX=2, PROMPT_DEPTH=2)
    settings |= {"TRAINER.DISTILL": "cosine", "TRAINER.W": 2.0}
    loader = PairLoader(ours.batches)
    compare_fits(
        checkout, compare, trainer, ours, problem, settings, adapted_parts, train_loader_x=loader
    )


def recording(owner: Any, name: str, values: list[Any]) -> Any:
    """Keeps what a function returns while it is patched."""
    original = getattr(owner, name)

    def record(*args: Any, **kwargs: Any) -> Any:
        values.append(original(*args, **kwargs))
        return values[-1]

    return mock.patch.object(owner, name, record)


class LowRankLoader:
    """CLIP-LoRA's: each iteration gives the next epoch's images and targets."""

    def __init__(self, ours: OurFit) -> None:
        self.epochs = iter(ours.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((batch.images, batch.targets) for batch in next(self.epochs))


@pytest.mark.authors("MaxZanella/CLIP-LoRA")
@pytest.mark.parametrize("encoder", ["both", "image", "text"])
def test_clip_lora(checkout: Checkout, compare: Compare, encoder: Any) -> None:
    """Both drop what our masks say: they have one for all tokens and classes of a text."""
    problem, masks = pose(), []
    changes = dict(batch_size=6, drop_last=False, lr=2e-3, final_lr=1e-6)
    recipe = CLIPLoRA.Config().recipe.model_copy(update=changes)
    method = CLIPLoRA(CLIPLoRA.Config(recipe=recipe, encoder=encoder, steps_per_shot=6))
    with recording(clip_lora, "draw_mask", masks):
        ours = fit(method, problem)
    with checkout.open(problem) as load:
        lora, layers = load("lora"), []
        apply = lora.apply_lora

        def start(*args: Any) -> list[Any]:
            layers.extend(apply(*args))
            for name, parts in low_rank_parts(layers, encoder).items():
                for mine, own in zip(ours.start[name].flatten(0, 1), parts, strict=True):
                    own.data.copy_(mine)
            return layers

        lora.apply_lora = start
        lora.cls_acc = lambda *_: 0.0  # needs an older NumPy
        dropped = order_masks(masks)
        arguments = dict(encoder={"image": "vision"}.get(encoder, encoder), backbone="ViT-B/16")
        arguments |= dict(position="all", params=[*PROJECTIONS], r=2, alpha=1, dropout_rate=0.25)
        arguments |= dict(n_iters=6, shots=problem.shots, lr=recipe.lr)
        arguments |= dict(eval_only=False, save_path=None)
        dataset = SimpleNamespace(
            classnames=list(problem.labels.names), template=[problem.labels.templates[0]]
        )
        test = [(problem.queries, torch.zeros(len(problem.queries), dtype=torch.long))]
        scale = problem.backbone.logit_scale
        with mock.patch.object(nn.Dropout, "forward", lambda self, x: x * next(dropped)):
            model, _ = load("clip").load("ViT-B/16", device="cpu")
            lora.run_lora(
                SimpleNamespace(**arguments), model, scale, dataset, LowRankLoader(ours), test, test
            )
        parts = low_rank_parts(layers, encoder)
        fitted = {name: torch.stack(part).view_as(ours.start[name]) for name, part in parts.items()}
        with torch.no_grad():
            texts = load("clip").tokenize(problem.labels.fill())
            images, texts = model.encode_image(problem.queries), model.encode_text(texts)
        logits = scale * nn.functional.normalize(images) @ nn.functional.normalize(texts).T
    compare(ours, fitted, logits, name=f"clip_lora, {encoder}")


def low_rank_parts(layers: list[Any], encoder: str) -> dict[str, list[Tensor]]:
    """A and B of each block and projection; the text's layers come first."""
    half = {"both": len(layers) // 2, "text": len(layers), "image": 0}[encoder]
    parts = {}
    for tower, own in (("text", layers[:half]), ("image", layers[half:])):
        for side in "ab" if own else "":
            parts[f"{tower}_{side}"] = [
                getattr(getattr(layer, f"{one}_proj"), f"w_lora_{side.upper()}")
                for layer in own
                for one in PROJECTIONS
            ]
    return parts


def order_masks(masks: list[Tensor]) -> Iterator[Tensor]:
    """Our masks as the authors' layers ask for them, for tokens ``[tokens, batch, d]``."""
    for mask in masks:
        if mask.ndim == 4:  # of the text tower, [blocks, 3, 1, d]
            yield from mask.flatten(0, 1)
        else:  # of a projection of the image tower, [batch, tokens, d]
            yield mask.transpose(0, 1)
