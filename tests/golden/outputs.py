"""Compute the golden outputs: numbers that must not change without a new version.

    python tests/golden/outputs.py              writes all of them, each to its file in outputs/
    python tests/golden/outputs.py coop kgcoop  writes those of these methods

The program refuses numbers that changed under the same version. The version of a method's output is
that of its card and of the methods it builds on; of every other output, ``ENGINE_VERSION``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, load_backbone
from compatbench.data.draws import draw_shots
from compatbench.data.images.views import View
from compatbench.data.labels import Labels
from compatbench.data.task import load_task
from compatbench.engine_version import ENGINE_VERSION
from compatbench.extras.check.models import IMAGE_SIZE, build_clip, build_eva_clip, wrap
from compatbench.method import FeatureSet, FewShotData, Method, NotTransferable, Teacher
from compatbench.method.identity import method_identity
from compatbench.method.predictions import predict
from compatbench.method.registry import builtin_methods
from compatbench.results.measures import Answers, score

FOLDER = Path(__file__).with_name("outputs")
REFRESH = "python tests/golden/outputs.py"
# Relative to the largest number of an output. Fits are in double precision, where processors differ
# far less; features of the mini models are in single precision.
TOLERANCE = 1e-4
LABELS = Labels(
    names=("dog", "hippopotamus", "red apple", "xylophone", "tree"),
    templates=("a photo of a {}.", "a drawing of the {}.", "{} texture"),
    teacher_template="a photo of a {}, a type of thing.",
    descriptions=(
        ("a friend", "It barks.", "often runs"),
        ("grey skin", "can swim"),
        ("A red apple is sweet.", "used in pies", "an old fruit"),
        ("wooden bars", "The xylophone of a child"),
        ("leaves", "A tree is tall."),
    ),
)
# Small fits, with a rate at which a few steps matter; other settings are as published.
CAPS = {"max_steps": 6, "max_iterations": 50, "bisections": 2, "prompts": 8, "words": 100}
BRISK = {"warmup_epochs": 0, "lr": 0.02}

Output = dict[str, Any]  # of JSON: lists of numbers, or words, which must be equal
Entry = dict[str, Any]  # version, output


@contextmanager
def double_precision() -> Iterator[None]:
    """Draw random numbers in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@cache
def synthetic_pair() -> tuple[Backbone, Backbone]:
    """Return a CLIP and an EVA-CLIP of the same widths, in double precision."""
    source = build_clip("source", seed=1)
    target = build_eva_clip("target", seed=2)
    return wrap(source.model.double(), "source"), wrap(target.model.double(), "target")


def paint(targets: Tensor, seed: int) -> Tensor:
    """Return preprocessed images ``[N, 3, H, W]``: a coarse pattern of each class, and noise."""
    patterns = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(len(targets), 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(patterns[targets] + noise, IMAGE_SIZE)


@cache
def synthetic_teacher() -> Backbone:
    """Return a CLIP of another joint space, in double precision."""
    return wrap(build_clip("teacher", seed=3, embed_dim=24).model.double(), "teacher")


def few_shots(method: Method, backbone: Backbone) -> FewShotData:
    """Return three shots and two validation images of each class, as a backbone sees them."""
    train = feature_set(method, backbone, 3, 2, 100)
    val = feature_set(method, backbone, 2, 1, 200)
    if "unlabelled" not in method.card.needs:
        return FewShotData(LABELS, 3, train, val)
    pool = feature_set(method, backbone, 4, 2, 400)
    unlabelled = replace(pool, targets=torch.full_like(pool.targets, -1))
    return FewShotData(LABELS, 3, train, val, unlabelled)


def feature_set(method: Method, source: Backbone, shots: int, views: int, seed: int) -> FeatureSet:
    """Return images of each class in some views, as inputs of a method on a backbone."""
    wanted = method.image_input(source)
    targets = torch.arange(5).repeat_interleave(shots)
    plain, *images = [paint(targets, seed + view) for view in range(1 + views)]
    features = torch.stack([source.encode_images(view) for view in images])
    view_inputs = None
    if wanted != FEATURES:
        view_inputs = [source.encode_images(view, wanted) for view in images]
    return FeatureSet(source.encode_images(plain), features, targets, view_inputs)


def fit_and_attach(name: str) -> Output:
    """Return logits ``[7, 5]`` of a short fit, attached to the source and to the target."""
    cls = builtin_methods().get(name)
    known = cls.Config.model_fields
    settings: dict[str, Any] = {name: cap for name, cap in CAPS.items() if name in known}
    if "recipe" in known:
        settings["recipe"] = cls.Config().recipe.model_copy(update=BRISK)  # type: ignore[attr-defined]
    method = cls(cls.Config.model_validate(settings))
    numbers: Output = {}
    with double_precision():
        source = synthetic_pair()[0]
        data = few_shots(method, source)
        if "teacher" in method.card.needs:
            teacher = Teacher(synthetic_teacher(), few_shots(method, synthetic_teacher()))
            data = replace(data, teacher=teacher)
        module = method.fit(source, data, torch.Generator().manual_seed(1)).detach()
        for backbone in synthetic_pair():
            images = paint(torch.arange(7) % 5, 300)
            with torch.no_grad():
                try:
                    classify = method.attach(module, backbone, LABELS)
                    logits = classify(backbone.encode_images(images, method.image_input(backbone)))
                    numbers[backbone.name] = shorten(logits)
                except NotTransferable as reason:
                    numbers[backbone.name] = str(reason)
    return numbers


def encode(name: str) -> Output:
    """Return features of words and of pictures, and the pixels that a backbone gets."""
    backbone = load_backbone(name)
    plain = View(0).apply(picture(), "a", 48)
    augmented = View(1).apply(picture(), "a", 48)
    pixels = torch.stack([backbone.preprocess(plain), backbone.preprocess(augmented)])
    with torch.no_grad():
        texts = backbone.text_features(LABELS.fill())
        images = backbone.encode_images(pixels)
    shown = {"texts": texts[:, :6], "images": images[:, :6], "pixels": pixels.mean((2, 3))}
    return {part: shorten(tensor) for part, tensor in shown.items()}


def picture() -> Image.Image:
    """Return a picture in which every pixel is different."""
    across, down = np.meshgrid(np.arange(60), np.arange(40))
    return Image.fromarray(np.stack([across * 4, down * 6, across + down], -1).astype(np.uint8))


def views() -> Output:
    """Return mean red, green and blue of the plain view and of three augmentations."""
    means = []
    for number in range(4):
        view = np.asarray(View(number).apply(picture(), "set/1", 24), float)
        means.append(view.mean((0, 1)))
    return {"means": shorten(torch.tensor(np.stack(means)))}


def draws() -> Output:
    """Return the images that a seed draws."""
    draw = draw_shots(load_task("mini-food"), 2, 1)
    train = [sample.id for sample in draw.train[:8]]
    val = [sample.id for sample in draw.val[:8]]
    return {"train": train, "val": val}


def measures() -> Output:
    """Return flips and the expected calibration error of made-up logits."""
    generator = torch.Generator().manual_seed(5)
    before, after = torch.randn(2, 200, 4, generator=generator)
    targets = torch.randint(4, (200,), generator=generator)
    plain = predict(before)
    sharp = predict(3 * after)
    scores = score(Answers(predict(after), plain, plain, targets))
    error = torch.tensor([score(Answers(sharp, None, plain, targets))["ece"]])
    flips = [scores[kind] for kind in ("negative_flips", "positive_flips", "inconsistent_errors")]
    return {"flips": flips, "ece": shorten(error)}


def shorten(values: Tensor) -> list[Any]:
    """Return numbers rounded to seven digits of the largest, as JSON."""
    digits = 6 - int(np.floor(np.log10(float(values.abs().max()))))
    return np.round(values.double().numpy(), digits).tolist()


OUTPUTS: dict[str, Callable[[], Output]] = {
    **{f"method {name}": partial(fit_and_attach, name) for name in builtin_methods().names()},
    **{f"backbone {name}": partial(encode, name) for name in ("mini-clip", "mini-eva-clip")},
    "views": views,
    "draws": draws,
    "measures": measures,
}


def version_of(name: str) -> str:
    """Return the versions of the code of an output."""
    engine = f"engine {ENGINE_VERSION}"
    if not name.startswith("method "):
        return engine
    method = builtin_methods().get(name.removeprefix("method "))
    return f"{method_identity(method)}, {engine}"


def moved(kept: Output, found: Output) -> bool:
    """Return True if an output differs by more than processors do."""
    if kept.keys() != found.keys():
        return True
    return any(_differ(kept[part], found[part]) for part in found)


def _differ(kept: Any, found: Any) -> bool:
    before = np.array(kept)
    now = np.array(found)
    if before.shape != now.shape or before.dtype.kind == "U" or now.dtype.kind == "U":
        return kept != found
    return bool(np.abs(now - before).max() > TOLERANCE * np.abs(before).max())


def renew(name: str, kept: Entry | None) -> Entry:
    """Return an output with its version; unchanged if the numbers did not change.

    Raises:
        ValueError: The numbers changed and the version did not.
    """
    found = OUTPUTS[name]()
    version = version_of(name)
    if kept is not None and not moved(kept["output"], found):
        found = kept["output"]
    elif kept is not None and kept["version"] == version:
        card = ""
        if name.startswith("method "):
            card = "`version` on the card of the method, or "
        raise ValueError(
            f"{name}: the numbers changed, but the version is still '{version}'; raise {card}"
            f"ENGINE_VERSION, then run: {REFRESH}"
        )
    return {"version": version, "output": found}


def path_of(name: str) -> Path:
    """Return the file of an output: one for each, so that two changes never conflict."""
    return FOLDER / f"{name.replace(' ', '-')}.json"


def read(name: str) -> Entry | None:
    """Return the golden output, or None if there is none."""
    path = path_of(name)
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def main(methods: Sequence[str]) -> None:
    """Write the golden outputs of methods, or all, except those that are refused."""
    names = [f"method {method}" for method in methods]
    refused = []
    for name in names or sorted(OUTPUTS):
        try:
            entry = renew(name, read(name))
        except ValueError as why:
            refused.append(str(why))
        else:
            path_of(name).write_text(json.dumps(entry) + "\n", encoding="utf-8")
    for path in {*FOLDER.glob("*.json")} - {*map(path_of, OUTPUTS)}:
        path.unlink()  # its method was removed
    sys.exit("\n".join(refused) or None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
