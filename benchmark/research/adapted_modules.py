"""Measure test-time adaptation that starts from the class scores of a copied module.

    compatbench run --methods kgcoop,maple,clip_adapter,tip_adapter,clip_lora,proker --seeds 1
    # Writes adapted_modules.csv, from runs/. One thread gives the same last digits:
    OMP_NUM_THREADS=1 python benchmark/research/adapted_modules.py

The modules and the settings of the adaptations were chosen before any result was seen. The results
are a section of docs/findings.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from compatbench.errors import CompatbenchError
from compatbench.messages import count, is_or_are, join_words
from compatbench.results.estimate import Interval, estimate
from compatbench.results.survival import count_after_correction
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import bounds, percent, signed
from compatbench.tables.table import TableCell, number, plain_table

if TYPE_CHECKING:
    from torch import Tensor

    from compatbench.backbone import Backbone
    from compatbench.data.feature_cache import FeatureCache
    from compatbench.data.task import Task

RESULTS = Path(__file__).with_suffix(".csv")
MODULES = {
    "kgcoop": "text prompt (KgCoOp)",
    "maple": "prompts in both towers (MaPLe)",
    "clip_adapter": "adapter (CLIP-Adapter)",
    "tip_adapter": "cache (Tip-Adapter)",
    "clip_lora": "low-rank update (CLIP-LoRA)",
    "proker": "closed form (ProKeR)",
}
ZERO_SHOT = "zeroshot"
STARTS = {ZERO_SHOT: "zero-shot", **MODULES}
ALONE = "none"
ADAPTATIONS = {"tda": "TDA", "stata": "StatA", "adapt": "ADAPT"}
MEASURES = {"accuracy": "accuracy", "ECE": "ece", "ECE at the same confidence": "ece_at_level"}
SOURCE = "mini-clip"
SHOTS = 16
TARGETS = {
    "mini-eva-clip": "keeps the old embedding space",
    "mini-eva-clip-anew": "has a new embedding space",
}
BACKBONES = {SOURCE: "old model", **TARGETS}


def measure(out: str | Path = ".") -> pd.DataFrame:
    """Return a row for each test set, backbone, start and adaptation.

    Args:
        out: the folder whose ``runs/`` has the modules.
    """
    import compatbench as cb
    from compatbench.backbone import load_backbone
    from compatbench.data.cache_files import default_cache_folder
    from compatbench.data.feature_cache import FeatureCache
    from compatbench.data.task import load_task

    cache = FeatureCache(default_cache_folder())
    rows: list[dict[str, Any]] = []
    modules = choose_modules(cb.modules(list(MODULES), out))
    for (name, seed), group in modules.groupby(["task", "seed"]):
        task = load_task(str(name))
        files = dict(zip(group["method"], group["file"], strict=True))
        for backbone_name in BACKBONES:
            backbone = load_backbone(backbone_name)
            place = {"task": name, "seed": seed, "backbone": backbone_name}
            scores = adapt_all(files, backbone, task, int(str(seed)), cache)
            rows += [{**place, **row} for row in scores]
    return pd.DataFrame(rows)


def choose_modules(modules: pd.DataFrame) -> pd.DataFrame:
    """Return the modules that were trained on the old model with 16 shots.

    Raises:
        CompatbenchError: there are several for a method, task and seed.
    """
    chosen = modules[(modules["source"] == SOURCE) & (modules["shots"] == SHOTS)]
    several = chosen[chosen.duplicated(["method", "task", "seed"])]
    if len(several):
        method, task, seed = several[["method", "task", "seed"]].iloc[0]
        raise CompatbenchError(
            f"runs/ holds several modules of {method} for {task} and seed {seed}; empty runs/, "
            "and run the methods again"
        )
    return chosen


def adapt_all(
    files: dict[str, str], backbone: Backbone, task: Task, seed: int, cache: FeatureCache
) -> Iterator[dict[str, Any]]:
    """Yield the scores of every start alone and with every adaptation, on one backbone.

    Args:
        files: the modules' files by method.
        seed: of the order of the test images.
    """
    import torch
    import torch.nn.functional as F

    from compatbench.engine.predict import draw_order, read_features
    from compatbench.method.registry import builtin_methods

    features = F.normalize(read_features(backbone, task, cache), dim=-1)
    text = backbone.zero_shot(task.labels)
    starts = {ZERO_SHOT: backbone.logit_scale * features @ text.T}
    for method, file in files.items():
        starts[method] = read_logits(Path(file), method, backbone, task, cache)
    order = draw_order(len(features), seed)
    places = order.argsort()
    for start_name, start in starts.items():
        level = mean_confidence(start)
        yield {"start": start_name, "adaptation": ALONE, **score_logits(start, task, level)}
        for name in ADAPTATIONS:
            adaptation: Any = builtin_methods().get(name)()
            module = adaptation.fit(backbone, None, None)  # it learns nothing
            with torch.no_grad():
                logits = adaptation.adapt(module, features[order], start[order], text)[places]
            yield {"start": start_name, "adaptation": name, **score_logits(logits, task, level)}


def read_logits(
    file: Path, method_name: str, backbone: Backbone, task: Task, cache: FeatureCache
) -> Tensor:
    """Return the logits of a module that is copied to a backbone, ``[images, classes]``."""
    import torch

    from compatbench.backbone import FEATURES
    from compatbench.engine.predict import draw_order, order_seed, read_features, run_classifier
    from compatbench.method import load_module
    from compatbench.method.registry import builtin_methods

    module = load_module(file)
    cls: Any = builtin_methods().get(method_name)
    method = cls(cls.Config.model_validate(module.about["config"]))
    wanted = method.image_input(backbone)
    if wanted == FEATURES:
        inputs: Any = read_features(backbone, task, cache)
    else:
        [inputs] = cache.tokens(backbone, task, task.split("test"), wanted)
    with torch.no_grad():
        classifier = method.attach(module, backbone, task.labels)
        return run_classifier(classifier, inputs, draw_order(len(inputs), order_seed(task)))


def score_logits(logits: Tensor, task: Task, level: float) -> dict[str, float]:
    """Return the number of correct answers and of images, and the rest in percent.

    ``ece_at_level`` is the ECE of the logits divided by one temperature, with which the mean
    confidence is ``level``. No label is needed to find it.
    """
    from compatbench.engine.task_images import label_tensor
    from compatbench.method.predictions import predict
    from compatbench.results.measures import Answers
    from compatbench.results.measures.standard import ece

    labels = label_tensor(task.split("test"))
    predictions = predict(logits)
    answers = Answers(predictions, None, predictions, labels)
    tempered = predict(logits / find_temperature(logits, level))
    return {
        "correct": int(answers.right(predictions).sum()),
        "total": len(labels),
        "confidence": 100 * mean_confidence(logits),
        "ece": ece(answers),
        "ece_at_level": ece(Answers(tempered, None, tempered, labels)),
    }


def mean_confidence(logits: Tensor) -> float:
    """Return the mean of the largest softmax probabilities."""
    return float(logits.softmax(-1).amax(-1).mean())


def find_temperature(logits: Tensor, level: float) -> float:
    """Return the temperature at which the mean confidence of logits is ``level``."""
    low = -6.0  # logarithms of the bounds
    high = 6.0
    for _ in range(40):
        middle = (low + high) / 2
        if mean_confidence(logits / math.exp(middle)) > level:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def read_results() -> pd.DataFrame:
    """Return accuracy, mean confidence and calibration errors in percent, seeds averaged.

    The index is (backbone, start, adaptation); the columns are (measure, task).
    """
    rows = pd.read_csv(RESULTS)
    rows["accuracy"] = 100 * rows["correct"] / rows["total"]
    index = ["backbone", "start", "adaptation"]
    measures = ["accuracy", "confidence", "ece", "ece_at_level"]
    return rows.pivot_table(measures, index, "task", aggfunc="mean")


def list_changes(values: Any, starts: Iterable[str]) -> pd.DataFrame:
    """Return what each adaptation changes, by (backbone, start, adaptation) and task.

    Args:
        values: a measure, by (backbone, start, adaptation) and task.
    """
    rows = {}
    for backbone in BACKBONES:
        for start in starts:
            before = values.loc[(backbone, start, ALONE)]
            for adaptation in ADAPTATIONS:
                after = values.loc[(backbone, start, adaptation)]
                rows[backbone, start, adaptation] = after - before
    return pd.DataFrame(rows).T


def show(by_task: Any) -> TableCell:
    """Return the mean of differences by task as ``+1.0 (-0.1 to +2.0)``."""
    interval = estimate(by_task.to_numpy())
    assert interval is not None
    return number(f"{signed(interval.value)} ({bounds(interval, signed)})")


def show_means(results: pd.DataFrame) -> str:
    """Return the table of what the adaptations change, as means over the modules."""
    header = ["Mean of the six modules", "Adaptation", *BACKBONES.values()]
    rows: list[list[TableCell | str]] = []
    for title, name in MEASURES.items():
        changes: Any = list_changes(results[name], STARTS)
        zero_shot = changes.xs(ZERO_SHOT, level=1)
        means = changes.drop(ZERO_SHOT, level=1).groupby(level=[0, 2]).mean()
        kinds = {title: means}
        if name == "accuracy":
            kinds[f"{title}, minus zero-shot's change"] = means - zero_shot
        for kind, frame in kinds.items():
            for adaptation, adaptation_title in ADAPTATIONS.items():
                row: list[TableCell | str] = [kind, adaptation_title]
                row += [show(frame.loc[(backbone, adaptation)]) for backbone in BACKBONES]
                rows.append(row)
    return render_table(plain_table(header, rows, left=(0, 1)))


def show_lead(results: pd.DataFrame) -> str:
    """Return the table of what modules gain over zero-shot with the same adaptation."""
    values: Any = results["accuracy"]
    header = ["Accuracy minus zero-shot's"]
    for title in TARGETS.values():
        header += [f"{title}: no adaptation", *ADAPTATIONS.values()]
    rows: list[list[TableCell | str]] = []
    for start, start_title in MODULES.items():
        row: list[TableCell | str] = [start_title]
        for backbone in TARGETS:
            for adaptation in (ALONE, *ADAPTATIONS):
                of_module = values.loc[(backbone, start, adaptation)]
                row.append(show(of_module - values.loc[(backbone, ZERO_SHOT, adaptation)]))
        rows.append(row)
    return render_table(plain_table(header, rows, left=(0,)))


def count_significant(results: pd.DataFrame) -> str:
    """Return how many changes of single modules are significant after Holm's correction."""
    changes = {title: list_changes(results[name], MODULES) for title, name in MEASURES.items()}
    counts = []
    for title, frame in changes.items():
        higher, lower = count_after_correction(frame)
        counts.append(f"{count(higher, 'rise')} and {count(lower, 'fall')} of the {title}")
    total = len(changes["accuracy"])
    return (
        f"Significant after Holm's correction, of {total} changes by module, adaptation and "
        f"model: {', '.join(counts)}."
    )


def describe(results: pd.DataFrame) -> str:
    """Return what was measured."""
    rows = pd.read_csv(RESULTS)
    tasks = rows["task"].nunique()
    zero_shot: Any = results.xs((ZERO_SHOT, ALONE), level=("start", "adaptation"))
    levels = []
    for backbone, title in BACKBONES.items():
        accuracy = percent(zero_shot.loc[backbone, "accuracy"].mean())
        ece = percent(zero_shot.loc[backbone, "ece"].mean())
        levels.append(f"{accuracy} and {ece} % ({title})")
    return (
        f"Suite `mini`, 16 shots, {count(tasks, 'task')}, {count(rows['seed'].nunique(), 'seed')}. "
        f"Zero-shot has an accuracy and an ECE of {', '.join(levels)}. Changes are in points, "
        "with intervals over tasks."
    )


def describe_answer(results: pd.DataFrame) -> str:
    """Return the answer, in numbers: what adaptations change in accuracies and confidences."""
    accuracy = list_changes(results["accuracy"], STARTS)
    on_targets = accuracy[accuracy.index.isin(list(TARGETS), level=0)]
    of_modules = mean_of_modules(on_targets)
    beside = of_modules - on_targets.xs(ZERO_SHOT, level=1)
    ece = mean_of_modules(list_changes(results["ece"], STARTS))
    at_level = mean_of_modules(list_changes(results["ece_at_level"], STARTS))
    names = join_words(list(ADAPTATIONS.values()))
    return (
        f"On the new models, {names} change the mean accuracy of six modules by "
        f"{span(of_modules)}: {count_signs(of_modules)}. Compared with what they add to zero-shot, "
        f"{count_signs(beside)}. {describe_lowest(results)} The calibration error (ECE) of the "
        f"mean module changes by {span(ece)} on the three models: {count_signs(ece)}.\n\n"
        "An adaptation may make answers overconfident. You can undo that without labels: divide "
        "the adapted logits by one temperature, such that the mean confidence is as before. "
        f"Then the mean ECE changes by {span(at_level)}: {count_signs(at_level)}."
    )


def mean_of_modules(changes: pd.DataFrame) -> pd.DataFrame:
    """Return changes by (backbone, start, adaptation) as means over the modules, without start."""
    modules = changes.drop(ZERO_SHOT, level=1)
    return modules.groupby(level=[0, 2], sort=False).mean()


def to_intervals(changes: pd.DataFrame) -> list[Interval]:
    """Return the interval over tasks of every row of changes."""
    intervals = [estimate(by_task.to_numpy()) for _, by_task in changes.iterrows()]
    return [interval for interval in intervals if interval is not None]


def span(changes: pd.DataFrame) -> str:
    """Return the smallest and the largest mean over tasks: ``-1.0 to +1.3 points``."""
    values = [interval.value for interval in to_intervals(changes)]
    return f"{signed(min(values))} to {signed(max(values))} points"


def count_signs(changes: pd.DataFrame) -> str:
    """Return how many intervals over tasks lie above 0 and how many below."""
    signs = [interval.sign for interval in to_intervals(changes)]
    above = signs.count(1)
    below = signs.count(-1)
    return (
        f"{above} of {len(signs)} intervals {is_or_are(above)} above 0 and {below} "
        f"{is_or_are(below)} below"
    )


def describe_lowest(results: pd.DataFrame) -> str:
    """Return whether modules that are below zero-shot stay below it with the same adaptation."""
    values: Any = results["accuracy"]
    sentences = []
    for backbone, title in TARGETS.items():
        for module, module_title in MODULES.items():
            signs = []
            for adaptation in (ALONE, *ADAPTATIONS):
                of_module = values.loc[(backbone, module, adaptation)]
                lead = estimate(of_module - values.loc[(backbone, ZERO_SHOT, adaptation)])
                assert lead is not None
                signs.append(lead.sign)
            if signs[0] < 0:
                sentences.append(
                    f"The module *{module_title}* is below zero-shot on the model "
                    f"that {title}; with the same adaptation of both, it is still below in "
                    f"{signs[1:].count(-1)} of {len(ADAPTATIONS)} cases."
                )
    return " ".join(sentences) or "No module is significantly below zero-shot before."


def describe_confidence() -> str:
    """Return how often the mean confidence is above the accuracy before any adaptation."""
    rows = pd.read_csv(RESULTS)
    rows = rows[rows["adaptation"] == ALONE]
    over = rows["confidence"] > 100 * rows["correct"] / rows["total"]
    is_zero_shot = rows["start"] == ZERO_SHOT
    zero_shot = over[is_zero_shot]
    modules = over[~is_zero_shot]
    return (
        "Before any adaptation, the mean confidence is above the accuracy for zero-shot in "
        f"{zero_shot.sum()} of {len(zero_shot)} cases (a task and a model), and for modules in "
        f"{modules.sum()} of {len(modules)}."
    )


def make_sections() -> dict[str, str]:
    """Return the sections."""
    results = read_results()
    parts = [describe(results), show_means(results), count_significant(results)]
    parts += [show_lead(results), describe_confidence()]
    return {"adapted-answer": describe_answer(results), "adapted": "\n\n".join(parts)}


def main() -> None:
    """Write the results."""
    measure().to_csv(RESULTS, index=False, lineterminator="\n", float_format="%.4f")


if __name__ == "__main__":
    main()
