"""Make a small problem for both sides, fit it by our method, and compare another fit with ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.labels import Labels
from compatbench.extras.check.models import randomise, wrap
from compatbench.method import FeatureSet, FewShotData, Method, Module
from compatbench.method.trained import Recipe, TrainedMethod

# An ε of Adam far above the rounding in gradients that are zero, such as those of key biases.
EPS = 1e-4
NAMES = ("dog", "hippopotamus", "red apple", "grand piano", "tree")
CLOSE = 1e-10  # largest relative difference of a whole fit in double precision
TEMPLATES = ("a photo of a {}.", "a bad photo of the {}.", "itap of a {}.")


@dataclass(frozen=True)
class Problem:
    """The input of both sides.

    Attributes:
        backbone: a random CLIP in double precision, with CLIP's own tokens and QuickGELU.
        weights: its weights by the names of OpenAI's checkpoints.
        labels: the class names and templates.
        shots: training images of each class.
        images: the N training images under each view, ``[views, N, 3, H, W]``.
        targets: their labels, ``[N]``.
        val, val_targets: validation images ``[n, 3, H, W]`` and their labels.
        queries: images on which logits are compared, ``[n, 3, H, W]``.
    """

    backbone: Backbone
    weights: dict[str, Tensor]
    labels: Labels
    shots: int
    images: Tensor
    targets: Tensor
    val: Tensor
    val_targets: Tensor
    queries: Tensor

    def unit_features(self, images: Tensor) -> Tensor:
        """Return the normalised features of images ``[..., 3, H, W]``."""
        features = self.backbone.encode_images(images.flatten(0, -4))
        return F.normalize(features, dim=-1).unflatten(0, images.shape[:-3])

    def data(self, method: Method) -> FewShotData:
        """Return the images as the harness gives them to a method."""
        backbone = self.backbone
        image_input = method.image_input(backbone)
        views = torch.stack([backbone.encode_images(view) for view in self.images])
        val = backbone.encode_images(self.val)
        tokens = None
        val_tokens = None
        if image_input.kind != "features":
            tokens = [backbone.encode_images(view, image_input) for view in self.images]
            val_tokens = [backbone.encode_images(self.val, image_input)]
        return FewShotData(
            self.labels,
            self.shots,
            FeatureSet(views[0], views, self.targets, tokens),
            FeatureSet(val, val[None], self.val_targets, val_tokens),
        )


def pose(
    shots: int = 4,
    views: int = 2,
    *,
    names: Sequence[str] = NAMES,
    templates: Sequence[str] = TEMPLATES,
    teacher: str = "a photo of a {}.",
    embed_dim: int = 32,
    width: int = 128,
    image_width: int = 128,
    layers: int = 3,
    text_layers: int | None = None,
    seed: int = 0,
    scale: float | None = None,
) -> Problem:
    """Draw a problem. Attention heads have 64 channels, as OpenAI's code assumes."""
    image: Any = dict(image_size=24, patch_size=12, width=image_width, layers=layers, head_width=64)
    text: Any = dict(context_length=77, vocab_size=49408, width=width, layers=text_layers or layers)
    text["heads"] = width // 64
    model: Any = randomise(CLIP(embed_dim, image, text, quick_gelu=True), seed + 1).double()
    model.visual.preprocess_cfg = dict(size=24, mean=(0.5,) * 3, std=(0.25,) * 3)
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(names), 3, 24, 24, generator=generator, dtype=torch.float64)

    def draw(targets: Tensor) -> Tensor:
        noise = torch.randn(len(targets), 3, 24, 24, generator=generator, dtype=torch.float64)
        return centres[targets] + noise

    targets = torch.arange(len(names)).repeat_interleave(shots)
    val_targets = torch.arange(len(names)).repeat_interleave(2)
    problem = Problem(
        wrap(model, "random", None),
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        Labels(tuple(names), tuple(templates), teacher),
        shots,
        torch.stack([draw(targets) for _ in range(views)]),
        targets,
        draw(val_targets),
        val_targets,
        draw(torch.arange(len(names))),
    )
    return problem if scale is None else at_scale(problem, scale)


def at_scale(problem: Problem, scale: float = 100.0) -> Problem:
    """Return the problem with CLIP's own logit scale, which some scripts write as a number."""
    problem.backbone.logit_scale = scale
    logarithm = torch.tensor(scale).log()
    problem.backbone.model.logit_scale.data.copy_(logarithm)  # type: ignore[operator, union-attr]
    return replace(problem, weights={**problem.weights, "logit_scale": logarithm})


@dataclass(frozen=True)
class ImageBatch:
    """A batch of our fit as images, under its view and under the next one, ``[batch, 3, H, W]``."""

    images: Tensor
    other_images: Tensor
    targets: Tensor
    rows: Tensor


@dataclass(frozen=True)
class OurFit:
    """A fit by our method.

    Attributes:
        method: the method.
        start: the module before the first step; None for methods without steps.
        module: the fitted module.
        logits: the module's logits of the queries.
        batches: the batches of each epoch, in order.
    """

    method: Method
    start: Module | None
    module: Module
    logits: Tensor
    batches: list[list[ImageBatch]]

    @property
    def recipe(self) -> Recipe:
        assert isinstance(self.method, TrainedMethod)
        return self.method.config.recipe

    @property
    def epochs(self) -> int:
        return len(self.batches)

    @property
    def steps(self) -> int:
        return sum(map(len, self.batches))


def fit(method: Method, problem: Problem, seed: int = 0) -> OurFit:
    """Fit a module by our method, and note its start and its batches."""
    data = problem.data(method)
    starts: list[Module] = []
    orders: list[Tensor] = []
    draw = torch.randperm
    init = getattr(method, "init", None)

    def randperm(n: int, **kwargs: Any) -> Tensor:
        orders.append(draw(n, **kwargs))
        return orders[-1]

    def record(*args: Any) -> Module:
        assert init is not None
        module = init(*args)
        starts.append(module.detach())
        orders.clear()  # these have drawn the start
        return module

    with mock.patch.object(torch, "randperm", randperm):
        if init is not None:
            method.init = record  # type: ignore[attr-defined]
        module = method.fit(problem.backbone, data, torch.Generator().manual_seed(seed))
    batches = []
    if isinstance(method, TrainedMethod):
        recipe = method.config.recipe
        count = len(problem.targets)
        _, per_epoch = method.plan_steps(problem.shots, count)
        rows = count * len(problem.images) if recipe.pool_views else count
        orders = [order for order in orders if len(order) == rows]
        for epoch, order in enumerate(orders):
            parts = order.split(recipe.batch_size)[:per_epoch]
            view = 0 if recipe.pool_views else epoch
            batches.append([_images(problem, view, part) for part in parts])
    classifier = method.attach(module, problem.backbone, problem.labels)
    with torch.no_grad():
        image_input = method.image_input(problem.backbone)
        logits = classifier(problem.backbone.encode_images(problem.queries, image_input))
    return OurFit(method, starts[0] if starts else None, module, logits, batches)


def _images(problem: Problem, view: int, rows: Tensor) -> ImageBatch:
    """Return images of a view by their rows. Rows after its last one are those of later views."""
    images = problem.images
    views = view + rows // len(problem.targets)
    shots = rows % len(problem.targets)
    here = images[views % len(images), shots]
    next_view = images[(views + 1) % len(images), shots]
    return ImageBatch(here, next_view, problem.targets[shots], rows)


def differences(named: Iterable[tuple[str, Tensor]], problem: Problem) -> dict[str, Tensor]:
    """Return the changes of a CLIP's weights, by our names."""
    return {common_name(name): tensor - problem.weights[name] for name, tensor in named}


def common_name(name: str) -> str:
    """Return our name of a weight with this name in OpenAI's checkpoints."""
    if name == "logit_scale":
        return "log_scale"
    if name.startswith("visual."):
        return f"image.{name.removeprefix('visual.')}"
    return f"text.{name}"


def recording(owner: Any, name: str, values: list[Any]) -> Any:
    """Return a patch of a function that appends its results to ``values``."""
    original = getattr(owner, name)

    def record(*args: Any, **kwargs: Any) -> Any:
        values.append(original(*args, **kwargs))
        return values[-1]

    return mock.patch.object(owner, name, record)


def difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Return the largest difference, relative to the tensor's largest entry, over all tensors."""
    assert ours.keys() == theirs.keys()
    worst = 0.0
    for name, one in ours.items():
        other = theirs[name].detach().double()
        assert one.shape == other.shape, f"{name}: {[*one.shape]} and {[*other.shape]}"
        gap = (one.double() - other).abs().max() / other.abs().max().clamp(min=1e-300)
        worst = max(worst, float(gap))
    return worst


def compare(
    record: Callable[[str, object], None],
    repository: str,
    ours: OurFit,
    theirs: Mapping[str, Tensor],
    logits: Tensor,
    *,
    name: str = "",
    parameters: Mapping[str, Tensor] | None = None,
    steps: int | None = None,
) -> None:
    """Record a comparison, and assert that parameters and logits agree and that the fit moved.

    Args:
        record: a function that keeps the row of the table.
        repository: the repository of the authors' code.
        ours: our fit.
        theirs: the authors' parameters by our names.
        logits: the authors' logits of the queries.
        name: the name of the row; by default the method's.
        parameters: our parameters, if they have to be brought into another form.
        steps: the steps of the fit, if the harness does not make the batches.
    """
    if parameters is None:
        parameters = ours.module.trained
    parameter_gap = difference(parameters, theirs)
    logit_gap = difference({"": ours.logits}, {"": logits})
    moved = float("nan")
    if ours.start is not None:
        moves = []
        for part in ours.start.trained:
            moves.append(difference({"": ours.start[part]}, {"": ours.module[part]}))
        moved = min(moves)
    if steps is None:
        steps = ours.steps
    row = [name or ours.method.card.name, repository, steps, moved, parameter_gap, logit_gap]
    record("whole_fit", row)
    assert not moved < 1e-6, "a parameter has not moved"
    gaps = f"parameters differ by {parameter_gap:.1e}, logits by {logit_gap:.1e}"
    assert max(parameter_gap, logit_gap) < CLOSE, gaps
