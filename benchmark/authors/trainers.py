"""Run trainers of Dassl on a small problem; ``trainers.yaml`` lists the fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import Checkout, Find, Loader, Parts, give, named, take
from recipes_page import read_recipes
from torch import Tensor
from whole_fits import OurFit, Problem, fit, pose

from compatbench.data.cards import task_cards
from compatbench.method import Method


@dataclass(frozen=True)
class Small:
    """A method's trainer on a small problem.

    Attributes:
        method: the method.
        find: returns the trainer's parameters by our names.
        changes: changes of the authors' settings, for a small model and few steps.
        sizes: the sizes of the problem, as arguments of ``pose``.
        task: the task whose settings are used.
        config, recipe: our settings that are in none of the authors' files.
        row: the name in the table; by default the method's.
        answer: the place of the logits among the model's results, if it has several.
        imported: the settings for importing its checkpoints; None if none is imported.
    """

    method: str
    find: Find
    changes: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    task: str = "caltech101"
    config: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    row: str = ""
    answer: int = 0
    imported: Mapping[str, Any] | None = None


def deep_prompts(transformer: Any) -> list[Any]:
    """Return the prompts of the blocks after the first, by the authors' name for them."""
    return [block.VPT_shallow for block in transformer.resblocks if block.add_prompt]


def image_parts(model: Any) -> Parts:
    """Return the prompts of the image tower."""
    tower = model.image_encoder
    return {"image_prompts": [tower.VPT, *deep_prompts(tower.transformer)]}


def independent_parts(model: Any) -> Parts:
    """Return prompts of both towers that do not depend on each other."""
    text = [model.prompt_learner.ctx, *deep_prompts(model.text_encoder.transformer)]
    return {"text_prompts": text, **image_parts(model)}


def coupled_parts(model: Any) -> Parts:
    """Return prompts of the text tower, and the layers that make those of the image tower."""
    learner = model.prompt_learner
    layers = [learner.proj, *learner.compound_prompt_projections]
    return {
        "text_prompts": [learner.ctx, *learner.compound_prompts_text],
        "coupling_weight": [layer.weight for layer in layers],
        "coupling_bias": [layer.bias for layer in layers],
    }


def attribute_parts(model: Any) -> Parts:
    """Return the contexts of ATPrompt."""
    learner = model.prompt_learner
    attributes = [learner.ctx_att1, learner.ctx_att2, learner.ctx_att3]
    return {"context": [*learner.ctx], "attribute_context": attributes}


def adapter_parts(model: Any) -> Parts:
    """Return the adapters of MMA; of three blocks, the last two have adapters."""
    learner = model.adapter_learner
    layers = {"shared": [learner.shared_adapter[block][0] for block in (2, 3)]}
    for tower, adapters in (("text", learner.text_adapter), ("image", learner.visual_adapter)):
        layers[f"{tower}_down"] = [adapters[block].down[0] for block in (2, 3)]
        layers[f"{tower}_up"] = [adapters[block].up for block in (2, 3)]
    found: Parts = {}
    for name, of_blocks in layers.items():
        found[name] = [layer.weight for layer in of_blocks]
        found[f"{name}_bias"] = [layer.bias for layer in of_blocks]
    return found


def token_parts(model: Any) -> Parts:
    """Return the tokens and projections of MMRL."""
    learner = model.representation_learner
    found: Parts = {"tokens": [*learner.compound_rep_tokens]}
    for kind, letter in (("text", "t"), ("image", "v")):
        layers = [*getattr(learner, f"compound_rep_tokens_r2{letter}proj")]
        found[kind] = [one.weight for one in layers]
        found[f"{kind}_bias"] = [one.bias[None] for one in layers]
    found["projection"] = [*model.image_encoder.proj_rep]
    return found


def read_small() -> dict[str, list[Small]]:
    """Return the fits of ``trainers.yaml``, by their kind.

    ``parts`` of a fit is the name of a function above, or the authors' names by ours.
    """
    found = {}
    for kind, rows in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()).items():
        found[kind] = []
        for row in rows:
            parts = row.pop("parts")
            find = globals()[parts] if isinstance(parts, str) else named(**parts)
            found[kind].append(Small(find=find, **row))
    return found


def beside_authors(small: Small, *more: Any) -> Any:
    """Return a test's parameters, marked with the repository of the method's authors."""
    mark = pytest.mark.authors(read_recipes()[small.method].repository)
    return pytest.param(small, *more, marks=mark, id=small.row or small.method)


def run(
    checkout: Checkout,
    small: Small,
    problem: Problem | None = None,
    *,
    method: type[Method] | None = None,
    prepare: Callable[[Any], None] = lambda trainer: None,
    after: Callable[[Any, Problem], None] = lambda trainer, problem: None,
    loader: Callable[..., Loader] = Loader,
    model: str = "model",
    **data: Any,
) -> tuple[OurFit, dict[str, Tensor], Tensor]:
    """Fit by our method, and by the authors' trainer from our start.

    Args:
        checkout: the checkout of the authors' code.
        small: the method and its trainer.
        problem: the problem; by default that of ``small``.
        method: another class of ours with the same settings.
        prepare, after: called with the trainer before and after it is trained.
        loader: makes a loader of the batches of our fit.
        model: the trainer's attribute that is the model.
        data: keyword arguments of ``Checkout.trainer``.

    Returns:
        Our fit, and the authors' parameters and logits.
    """
    problem = problem or pose(templates=task_cards.read(small.task).templates, **small.sizes)
    published = checkout.published(small.method, small.changes, small.task)
    built: Any = published.method(small.recipe, **small.config)
    ours = fit(method(built.config) if method else built, problem)
    loaders = dict(train_loader_x=loader(ours.batches)) if ours.batches else {}
    with checkout.trainer(published, problem, ours, **loaders, **data) as trainer:
        theirs = getattr(trainer, model)
        give(small.find(theirs), ours.start)
        prepare(trainer)
        trainer.train()
        results = theirs.eval()(problem.queries)
        found = {name: part.detach() for name, part in take(small.find(theirs)).items()}
        after(trainer, problem)
    logits = results[small.answer] if isinstance(results, tuple) else results
    return ours, found, logits
