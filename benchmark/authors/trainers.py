"""Trainers of Dassl on a small problem: their rows are in ``trainers.yaml``."""

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
        find: its parameters by our names.
        changes: of the authors' settings, where a small model or few steps ask for them.
        sizes: of the problem, as ``pose`` takes them.
        task: whose settings hold.
        config, recipe: ours that stand in no file of theirs.
        row: in the table; by default the method's name.
        answer: which of the model's results are logits, where it has several.
        imported: what an import of its checkpoints asks for; None where none is tried.
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


def attribute_parts(model: Any) -> Parts:
    learner = model.prompt_learner
    attributes = [learner.ctx_att1, learner.ctx_att2, learner.ctx_att3]
    return {"context": [*learner.ctx], "attribute_context": attributes}


def adapter_parts(model: Any) -> Parts:
    """MMA's; of three blocks, the last two have adapters."""
    learner, found = model.adapter_learner, dict[str, Any]()
    for kind, own in (("text", learner.text_adapter), ("image", learner.visual_adapter)):
        for name, get in (("down", lambda x: x.down[0]), ("up", lambda x: x.up)):
            found[f"{kind}_{name}"] = [get(own[i]).weight for i in (2, 3)]
            found[f"{kind}_{name}_bias"] = [get(own[i]).bias for i in (2, 3)]
    shared = [learner.shared_adapter[i][0] for i in (2, 3)]
    found["shared"] = [one.weight for one in shared]
    return found | {"shared_bias": [one.bias for one in shared]}


def token_parts(model: Any) -> Parts:
    """MMRL's."""
    learner = model.representation_learner
    found: Parts = {"tokens": [*learner.compound_rep_tokens]}
    for kind, letter in (("text", "t"), ("image", "v")):
        layers = [*getattr(learner, f"compound_rep_tokens_r2{letter}proj")]
        found[kind] = [one.weight for one in layers]
        found[f"{kind}_bias"] = [one.bias[None] for one in layers]
    found["projection"] = [*model.image_encoder.proj_rep]
    return found


def read_small() -> dict[str, list[Small]]:
    """The rows of ``trainers.yaml``, by their kind."""
    rows = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return {
        kind: [
            Small(find=globals()[parts] if isinstance(parts, str) else named(**parts), **row)
            for row in of_kind
            for parts in [row.pop("parts")]
        ]
        for kind, of_kind in rows.items()
    }


def beside_authors(small: Small, *more: Any) -> Any:
    """A test's parameters, marked with the repository of the method's authors."""
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
    """Our fit, and the authors' parameters and logits after theirs from our start.

    Args:
        method: ours, where it is another class with the same settings.
        prepare, after: what is done with the trainer before and after it is trained.
        loader: of the batches of our fit.
        model: where the trainer has it.
        data: keyword arguments of ``Checkout.trainer``.
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
    return ours, found, results[small.answer] if isinstance(results, tuple) else results
