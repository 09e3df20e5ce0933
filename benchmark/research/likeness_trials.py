"""Trials that might make the mini suite more like real ones: other classes, smaller patches.

python benchmark/research/likeness_trials.py train FOLDER 6    # or 12, the control; 8 or 4 minutes
python benchmark/research/likeness_trials.py measure FOLDER patch-6    # a name of TRIALS

A trial is the mini suite with another source, or with tasks of more classes, and the methods that
have published figures, as the suite sets them, on one seed. FOLDER gets its cards, weights and
results; ``--work`` is the working folder of ``python -m compatbench.tasks.mini.build``, with the
drawings. Rows go to results/likeness_trials.csv beside this file, from which ``python -m
compatbench.tasks.mini.build trials`` makes the table of docs/mini-suite.md.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import torch.nn.functional as F
import typer
import yaml
from safetensors.torch import load_file

import compatbench as cb
from compatbench.data.cards import suite_cards
from compatbench.engine.compute import Compute
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import hash_file
from compatbench.tasks.mini.build import likeness, towers, trials
from compatbench.tasks.mini.build.classes import Finder, TaskSpec, slug, task_specs
from compatbench.tasks.mini.build.corpus import load_corpus
from compatbench.tasks.mini.build.render import SIZE
from compatbench.tasks.mini.build.sets import MINI_FOLDER, TASKS_FOLDER, names_with_role
from compatbench.tasks.mini.build.sheets import write_sheets
from compatbench.tasks.mini.build.source import SECOND
from compatbench.tasks.mini.build.splits import Task, make_task
from compatbench.tasks.mini.build.stage import write_facts
from compatbench.tasks.mini.build.training import Recipe, contrast

# Rates of the source's second round, which went on from a trained model, too.
FURTHER = Recipe(seed=6, steps=300, rate=SECOND.rate, muon_rate=SECOND.muon_rate)
CLASSES = 40
# Tasks of close kinds; of those that do not have so many classes, several become one.
JOINED = (
    ("food", "animals"),
    ("objects",),
    ("signs", "arrows"),
    ("icons", "layouts"),
    ("science", "weather", "travel"),
    ("faces", "people"),
)
LONGER = 4  # times the suite's steps
Work = Annotated[Path, typer.Option(help="The build's working folder.")]


@dataclass(frozen=True)
class Trial:
    """A source by the size of its patches, None for the one that ships; and the tasks."""

    patch: int | None = None
    more_classes: bool = False


TRIALS = {
    "classes-40": Trial(more_classes=True),
    "longer": Trial(),
    "patch-12": Trial(12),
    "patch-6": Trial(6),
}
app = typer.Typer()


@app.command()
def train(folder: Path, patch: int, work: Work = Path("mini-build")) -> None:
    """Train the source that ships for FURTHER's batches, with patches of another size."""
    torch.set_num_threads(1)
    torch.backends.cuda.enable_flash_sdp(False)
    model = create_source(folder / "models", patch).requires_grad_(True).train()
    torch.manual_seed(FURTHER.seed)
    corpus = load_corpus(work, *towers.PRETRAINING[towers.SOURCE])
    place = folder / "models" / name_source(patch)
    stage = contrast(place, "further", model, corpus, FURTHER)
    towers.save(model, place.with_suffix(".safetensors"))
    write_facts(place / "facts.json", further=stage)


def name_source(patch: int) -> str:
    """The name of a source with patches of so many pixels."""
    return f"{towers.SOURCE}-patch-{patch}"


def create_source(folder: Path, patch: int) -> Any:
    """The source that ships with patches of ``patch`` × ``patch`` pixels; writes its config.

    A smaller patch gives what the old kernel gives of it when it is enlarged, bilinearly, to the
    old size; positions are interpolated. So the model computes what it would of enlarged images.
    """
    import open_clip

    config = json.loads((MINI_FOLDER / "configs" / f"{towers.SOURCE}.json").read_text())
    old, config["vision_cfg"]["patch_size"] = config["vision_cfg"]["patch_size"], patch
    place = folder / "configs" / f"{name_source(patch)}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    open_clip.add_model_config(place)
    model = open_clip.create_model(place.stem, precision="fp32")
    state = load_file(MINI_FOLDER / f"{towers.SOURCE}.safetensors")
    state = {name: value.float() for name, value in state.items()}
    kernel, positions = (state[f"visual.{n}"] for n in ("conv1.weight", "positional_embedding"))
    pixels = torch.eye(patch**2).view(-1, 1, patch, patch)
    enlarged = F.interpolate(pixels, size=(old, old), mode="bilinear").flatten(1)
    state["visual.conv1.weight"] = (kernel.flatten(2) @ enlarged.T).view(-1, 3, patch, patch)
    grid = positions[1:].T.view(1, -1, SIZE // old, SIZE // old)
    grid = F.interpolate(grid, size=(SIZE // patch,) * 2, mode="bilinear")[0].flatten(1).T
    state["visual.positional_embedding"] = torch.cat([positions[:1], grid])
    model.load_state_dict(state)
    return model


@app.command()
def measure(
    folder: Path,
    name: str,
    work: Work = Path("mini-build"),
    methods: Annotated[str, typer.Option(help="Some of the trial's.")] = "all",
) -> None:
    """Fit the methods of a trial, and write its rows; goes on where it stopped.

    Once a trial's suite is written, several may share it; the last to end writes all of its rows.
    """
    trial, cards = TRIALS[name], folder / name
    suite = write_suite(cards, folder / "models", name, work)
    os.environ["COMPATBENCH_TASKS"] = str(cards.resolve())
    results = cb.run(suite, methods, out=cards, compute=Compute(jobs=1), progress=False)
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    with (cards / "seconds.txt").open("a", encoding="utf-8") as file:  # of each call
        print(sum(times.ru_utime + times.ru_stime for times in used), file=file)
    seconds = sum(map(float, (cards / "seconds.txt").read_text(encoding="utf-8").split()))
    trained = 0.0
    if trial.patch:
        facts = (folder / "models" / name_source(trial.patch) / "facts.json").read_text()
        trained = json.loads(facts)["stages"]["further"]["cpu_minutes"]
    frame = likeness.read_rows(cards / "results" / suite)
    frame = frame[frame["backbone"] == frame["source"]][["method", "task", "accuracy"]]
    tasks = frame.groupby("method")["task"].transform("nunique")
    frame = frame[tasks == frame["task"].nunique()]  # of a method that is not done, nothing
    frame = frame.assign(trial=name, fit_minutes=round(seconds / 60, 1), training_minutes=trained)
    rows = [frame.round(3)]
    if trials.ROWS.exists():
        rows.insert(0, pd.read_csv(trials.ROWS).query("trial != @name"))
    write_atomic(trials.ROWS, pd.concat(rows).to_csv(index=False).encode())
    print(f"{len(frame)} rows, {seconds / 60:.1f} minutes, {len(results.failures)} failures")


def write_suite(cards: Path, models: Path, name: str, work: Path) -> str:
    """Writes a trial's cards, a copy of the suite's with what differs, and gives its suite."""
    trial, suite = TRIALS[name], f"trial-{name}"
    if (cards / "suites" / f"{suite}.yaml").exists():
        return suite
    ignored = shutil.ignore_patterns("build", "__pycache__")
    shutil.copytree(TASKS_FOLDER, cards, ignore=ignored, dirs_exist_ok=True)
    source = towers.SOURCE
    values: dict[str, object] = {"name": suite, "title": name, "extends": "mini"}
    if trial.patch:
        source = name_source(trial.patch)
        weights = models / f"{source}.safetensors"
        shutil.copy(weights, cards / "mini")
        shutil.copy(models / "configs" / f"{source}.json", cards / "mini" / "configs")
        card = yaml.safe_load((cards / "backbones" / f"{towers.SOURCE}.yaml").read_text())
        card |= {"name": source, "config": source, "sha256": hash_file(weights)}
        card |= {"weights": f"mini/{weights.name}", "lineage": "mini-clip, trained on"}
        write_card(cards / "backbones" / f"{source}.yaml", card)
    if trial.more_classes:
        values["tasks"] = write_tasks(cards, work)
    values |= {"upgrades": [[source, towers.TARGET]], "variants": [], "development": []}
    values |= {"seeds": [1], "run_seeds": [1], "publish": False}
    methods = ["zeroshot", *likeness.published_table().index]
    longer = {
        f"{method}{trials.LONGER}": {"method": method, "max_steps": LONGER * settings["max_steps"]}
        for method, settings in suite_cards.read("mini").methods.items()
        if method in methods and "max_steps" in settings and (trial == Trial() or method == "coop")
    }
    # The suite's own rows are those of its source and tasks in as many steps as it has.
    values |= {"methods": longer, "compare": [*longer, *methods * (trial != Trial())]}
    write_card(cards / "suites" / f"{suite}.yaml", values)
    return suite


def write_card(path: Path, values: Mapping[str, object]) -> None:
    """Writes a card."""
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")


def write_tasks(cards: Path, work: Path) -> list[str]:
    """Writes tasks of CLASSES classes in place of the suite's, and gives their names."""
    finder = Finder(work)
    tasks = [make_task(work, join_specs(names), finder, CLASSES) for names in JOINED]
    write_sheets(work, [task.splits[0] for task in tasks], cards / "mini")
    for task in tasks:
        write_card(cards / f"mini-{task.spec.name}.yaml", describe_task(task))
    files = [path for path in (cards / "mini").rglob("*") if path.is_file()]
    manifest = {f.relative_to(cards / "mini").as_posix(): {"sha256": hash_file(f)} for f in files}
    (cards / "mini" / "manifest.json").write_text(json.dumps({"files": manifest}))
    return [f"mini-{task.spec.name}" for task in tasks]


def join_specs(names: tuple[str, ...]) -> TaskSpec:
    """The classes of several tasks as one; a class that shows what one before it does is left out.

    There are no variants, whose sets give drawings to the task.
    """
    specs = [task_specs()[name] for name in names]
    classes, shown = {}, set()
    for spec in specs:
        new = {name: concepts(parts) for name, parts in spec.classes.items()}
        new = {name: own for name, own in new.items() if name not in classes and not own & shown}
        classes |= {name: spec.classes[name] for name in new}
        shown.update(*new.values())
    name, sets = "-".join(names), tuple(names_with_role("held-out"))
    return TaskSpec(f"{name}-{CLASSES}", name, name, specs[0].templates, sets, {}, classes)


def concepts(parts: Mapping[str, list[str]]) -> set[str]:
    """What shows a class, by the names that drawings have."""
    return {*map(slug, parts.get("emoji", ())), *parts.get("icons", ())}


def describe_task(task: Task) -> dict[str, object]:
    """The card of a task of a trial."""
    return {
        "name": f"mini-{task.spec.name}",
        "title": task.spec.title,
        "classes": task.classes,
        "templates": list(task.spec.templates),
        "source": {"kind": "drawings", "split": f"mini/splits/{task.spec.name}.csv"},
        "counts": task.splits[0].counts(),
        "licence": "as those of the mini suite's tasks",
    }


if __name__ == "__main__":
    app()
