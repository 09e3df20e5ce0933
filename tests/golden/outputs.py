"""The numbers that must not change without a new version, and the file that remembers them.

    python tests/golden/outputs.py              writes them anew, each to its file in outputs/
    python tests/golden/outputs.py coop kgcoop  those of these methods

refuses numbers that moved under an unchanged version. Of a method, the version is that of its
card and of the methods it builds on; of everything else, ``ENGINE_VERSION``.
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
# Of the largest number of an output. Fits are in double precision, where processors differ by
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
# Small fits, at a rate at which a few steps count; the rest is as published.
CAPS = {"max_steps": 6, "max_iterations": 50, "bisections": 2, "prompts": 8, "words": 100}
BRISK = {"warmup_epochs": 0, "lr": 0.02}

Output = dict[str, Any]  # of JSON: lists of numbers, or words, which must be equal
Entry = dict[str, Any]  # version, output


@contextmanager
def double_precision() -> Iterator[None]:
    """What is drawn is drawn in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@cache
def synthetic_pair() -> tuple[Backbone, Backbone]:
    """A CLIP and an EVA-CLIP of the same widths, in double precision."""
    source = build_clip("source", seed=1)
    target = build_eva_clip("target", seed=2)
    return wrap(source.model.double(), "source"), wrap(target.model.double(), "target")


def paint(targets: Tensor, seed: int) -> Tensor:
    """Preprocessed images ``[N, 3, H, W]``: coarse patterns, one for each class, and noise."""
    patterns = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(len(targets), 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(patterns[targets] + noise, IMAGE_SIZE)


@cache
def synthetic_teacher() -> Backbone:
    """A CLIP of another joint space, in double precision."""
    return wrap(build_clip("teacher", seed=3, embed_dim=24).model.double(), "teacher")


def few_shots(method: Method, backbone: Backbone) -> FewShotData:
    """Three shots and two validation images of each class, as a backbone sees them."""
    few = feature_set(method, backbone, 3, 2, 100), feature_set(method, backbone, 2, 1, 200)
    if "unlabelled" not in method.card.needs:
        return FewShotData(LABELS, 3, *few)
    pool = feature_set(method, backbone, 4, 2, 400)
    return FewShotData(LABELS, 3, *few, replace(pool, targets=torch.full_like(pool.targets, -1)))


def feature_set(method: Method, source: Backbone, shots: int, views: int, seed: int) -> FeatureSet:
    """So many images of each class under some views, as a method is given them on a backbone."""
    wanted = method.image_input(source)
    targets = torch.arange(5).repeat_interleave(shots)
    plain, *images = (paint(targets, seed + view) for view in range(1 + views))
    return FeatureSet(
        source.encode_images(plain),
        torch.stack([source.encode_images(view) for view in images]),
        targets,
        None if wanted == FEATURES else [source.encode_images(v, wanted) for v in images],
    )


def fit_and_attach(name: str) -> Output:
    """Logits ``[7, 5]`` of a short fit, attached to the source and to the target."""
    cls = builtin_methods().get(name)
    settings: dict[str, Any] = {k: v for k, v in CAPS.items() if k in cls.Config.model_fields}
    if "recipe" in cls.Config.model_fields:
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
    """Features of words and of pictures, and the pixels that a backbone is handed."""
    backbone = load_backbone(name)
    pixels = torch.stack([backbone.preprocess(View(n).apply(picture(), "a", 48)) for n in (0, 1)])
    with torch.no_grad():
        texts = backbone.text_features(LABELS.fill())
        images = backbone.encode_images(pixels)
    shown = {"texts": texts[:, :6], "images": images[:, :6], "pixels": pixels.mean((2, 3))}
    return {part: shorten(tensor) for part, tensor in shown.items()}


def picture() -> Image.Image:
    """A picture in which every pixel is different."""
    across, down = np.meshgrid(np.arange(60), np.arange(40))
    return Image.fromarray(np.stack([across * 4, down * 6, across + down], -1).astype(np.uint8))


def views() -> Output:
    """Mean red, green and blue of the plain view and of three augmentations."""
    seen = [np.asarray(View(n).apply(picture(), "set/1", 24), float) for n in range(4)]
    return {"means": shorten(torch.tensor(np.stack([view.mean((0, 1)) for view in seen])))}


def draws() -> Output:
    """Which images a seed draws."""
    draw = draw_shots(load_task("mini-food"), 2, 1)
    return {"train": [s.id for s in draw.train[:8]], "val": [s.id for s in draw.val[:8]]}


def measures() -> Output:
    """Flips and expected calibration error of made-up logits."""
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
    """Numbers with seven digits of the largest, as JSON."""
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
    """The versions that name the code of an output."""
    engine = f"engine {ENGINE_VERSION}"
    if not name.startswith("method "):
        return engine
    return f"{method_identity(builtin_methods().get(name.removeprefix('method ')))}, {engine}"


def moved(kept: Output, found: Output) -> bool:
    """Whether an output differs by more than processors do."""
    return kept.keys() != found.keys() or any(_differ(kept[n], found[n]) for n in found)


def _differ(kept: Any, found: Any) -> bool:
    before = np.array(kept)
    now = np.array(found)
    if before.shape != now.shape or before.dtype.kind == "U" or now.dtype.kind == "U":
        return kept != found
    return bool(np.abs(now - before).max() > TOLERANCE * np.abs(before).max())


def renew(name: str, kept: Entry | None) -> Entry:
    """An output with its version; as it was, if it did not move.

    Raises:
        ValueError: its numbers moved and its version did not.
    """
    found = OUTPUTS[name]()
    version = version_of(name)
    if kept is not None and not moved(kept["output"], found):
        found = kept["output"]
    elif kept is not None and kept["version"] == version:
        card = "`version` on the card of the method, or " if name.startswith("method ") else ""
        raise ValueError(
            f"{name}: the numbers changed, but the version is still '{version}'; raise {card}"
            f"ENGINE_VERSION, then run: {REFRESH}"
        )
    return {"version": version, "output": found}


def path_of(name: str) -> Path:
    """The file of an output: one for each, so that two changes meet in none."""
    return FOLDER / f"{name.replace(' ', '-')}.json"


def read(name: str) -> Entry | None:
    """An output as it is kept, if it is."""
    path = path_of(name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def main(methods: Sequence[str]) -> None:
    """Writes the golden outputs of methods, or all, anew; those that are refused stay."""
    refused = []
    for name in [f"method {method}" for method in methods] or sorted(OUTPUTS):
        try:
            entry = renew(name, read(name))
        except ValueError as why:
            refused.append(str(why))
        else:
            path_of(name).write_text(json.dumps(entry) + "\n", encoding="utf-8")
    for path in {*FOLDER.glob("*.json")} - {*map(path_of, OUTPUTS)}:
        path.unlink()  # of a method that is gone
    sys.exit("\n".join(refused) or None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
