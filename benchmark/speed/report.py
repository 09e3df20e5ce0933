"""Makes docs/speed.md and docs/speed.svg from benchmark/speed/results.json.

pytest benchmark/speed/test_text.py benchmark/speed/test_memory.py \\
    --benchmark-json=benchmark/speed/results.json
pytest benchmark/speed/test_harness.py --benchmark-json=benchmark/speed/harness.json
python benchmark/speed/many.py
python benchmark/speed/indexes.py --most 10000000
python benchmark/speed/report.py

Cells of the mini suite in two checkouts are compared by cells.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from many import BARS

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"

HEAD = """# Speed

<!-- Made by benchmark/speed/report.py from benchmark/speed/results.json. Do not edit. -->

{machine}. Every row compares two ways to compute the same numbers, timed in one run: as
open_clip and CoOp do it (77 tokens for every class), and as compatbench does it. Times are
CPU seconds of the best round. *Error* is the largest difference of features and gradients,
in parts of the largest value, in float32.

Model: open_clip's `ViT-B-16`, random weights; {context} context tokens; real class names.
"""

HOW = """
## Why it is exact

A causal text tower that is pooled at the end-of-text token never attends to what follows, and what
comes before a class's own tokens is the same for all classes. So
* padding after the end of text is not computed;
* start-of-text and context run once, and every class's own tokens attend to their keys and
  values; one prefix for all classes, or one for each image (CoCoOp), with or without deep
  prompts (MaPLe). Contexts of a class's own (CSC, ContCoOp) share start-of-text only;
* names of all lengths lie packed in groups of {group} rows, kept apart by a mask, so that
  one batch of small products serves all;
* in the last block only the end-of-text rows go through the MLP;
* classes go in chunks that stay in the processor's cache. What does not fit the memory
  budget (`set_memory_budget`; by default half of what is free) is computed again in the
  backward pass. The chunks are the same either way, so the budget does not change the result.

Other towers (SigLIP, CLIPA, MobileCLIP-S, CoCa) attend to their padding, so they are run whole,
through open_clip's own blocks. The path of a tower is chosen by its parts, never by
its name; a tower with an unknown part is an error.

## Reproduce the measurements

    pytest benchmark/speed/test_text.py benchmark/speed/test_memory.py \\
        --benchmark-json=benchmark/speed/results.json
    pytest benchmark/speed/test_harness.py --benchmark-json=benchmark/speed/harness.json
    python benchmark/speed/many.py
    python benchmark/speed/classify_memory.py tip_adapter_f > benchmark/speed/classify.jsonl
    python benchmark/speed/classify_memory.py cocoop --images 256 >> benchmark/speed/classify.jsonl
    python benchmark/speed/trainers.py
    python benchmark/speed/indexes.py --most 10000000
    python benchmark/speed/cells.py OTHER/.venv/bin/python .venv/bin/python  # of two checkouts
    python benchmark/speed/report.py
    benchmark/speed/gpu.sh --coop CHECKOUT  # on a GPU; makes this page, too

On an idle machine; it takes about ten minutes and 4 GB. The suites also assert equality
and the ratios that the project promises.
"""


def main() -> None:
    data = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    cases = {case["name"]: case for case in data["benchmarks"]}
    more = [*_classified(), *_harness(), *_trainers(), *_mini(), *_indexes(), *_gpus()]
    page = make_page(data["machine_info"], cases, more)
    (DOCS / "speed.md").write_text(page, encoding="utf-8")
    draw_plot(cases, DOCS / "speed.svg")


def make_page(machine: dict[str, Any], cases: dict[str, Any], more: list[str]) -> str:
    from compatbench.backbone.text.causal import GROUP

    name = (
        f"{machine['processor']}, {machine['threads']} thread, torch {machine['torch']}, float32; "
        f"its own rate in a 1024 × 1024 matrix product is {machine['matmul_gflops']} GFLOP/s"
    )
    lines = [HEAD.format(machine=name, context=16)]
    lines += ["| | classes | plain, s | compatbench, s | speed-up | error |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    lines += [_row(title, case) for title, case in _titled(cases)]
    lines += ["", "![CPU seconds against the number of classes](speed.svg)", ""]
    lines += _memory(cases["test_imagenet_within_2_gib"]["extra_info"])
    lines += more
    return "\n".join(lines) + "\n" + HOW.format(group=GROUP)


def _titled(cases: dict[str, Any]) -> list[tuple[str, Any]]:
    rows = [
        (f"{case['extra_info']['dataset']}, forward and backward", case)
        for case in _by_classes(cases)
    ]
    rows.append(
        ("a CoOp step, batch 32 (plain: images encoded each step)", cases["test_coop_step"])
    )
    rows.append(("CoCoOp, forward and backward, one image", cases["test_cocoop_image"]))
    rows.append(("a small tower: width 192, 6 blocks", cases["test_small_tower"]))
    return rows


def _by_classes(cases: dict[str, Any]) -> list[Any]:
    found = [case for case in cases.values() if "dataset" in case["extra_info"]]
    return sorted(found, key=lambda case: case["extra_info"]["classes"])


def _seconds(case: dict[str, Any]) -> float:
    return case["stats"]["min"] / case["extra_info"].get("images", 1)


def _row(title: str, case: dict[str, Any]) -> str:
    facts = case["extra_info"]
    return (
        f"| {title} | {facts['classes']} | {facts['plain_seconds']:.3g} | {_seconds(case):.3g} "
        f"| **{facts['ratio']:.1f}** | {max(facts['relative_errors']):.0e} |"
    )


def _memory(facts: dict[str, Any]) -> list[str]:
    budget = facts["budget_bytes"] / 2**20
    lines = ["## 1,000 classes in little memory", ""]
    lines += [
        "The whole model is loaded; the peak is that of the process. *Rate*: operations of the"
    ]
    lines += ["linear layers that were done, in parts of the machine's own rate.", ""]
    lines += [
        "| memory budget | CPU s | peak, GiB | GFLOP | rate |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind, title in (("budget", f"{budget:.0f} MiB"), ("free", "none")):
        lines.append(
            f"| {title} | {facts[f'{kind}_seconds']:.2f} | {facts[f'{kind}_peak_gib']:.2f} "
            f"| {facts[f'{kind}_gflop']:.0f} | {facts[f'{kind}_rate']:.0%} |"
        )
    lines += [
        "",
        f"The model alone takes {facts['loaded_gib']:.2f} GiB. Both give the same bits.",
    ]
    return lines


def _classified() -> list[str]:
    """The memory in which images of 1,000 classes are classified, if it has been measured."""
    path = HERE / "classify.jsonl"
    if not path.exists():
        return []
    lines = [
        "",
        "Random features of the joint space's size, of 1,000 classes, classified by a module of 16 "
        "shots. Images go in batches",
        "that take at most 1 GiB; *before* is what the process holds with libraries, model and "
        "module. CoCoOp encodes",
        "1,000 prompts for each image, so fewer images are asked of it: a batch takes the same.",
        "",
        "| method | images | a batch | before, GiB | peak, GiB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for facts in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        lines.append(
            f"| {facts['method']} | {facts['images']:,} | {facts['batch']:,} "
            f"| {facts['before_gib']:.2f} | {facts['peak_gib']:.2f} |"
        )
    return lines


def _harness() -> list[str]:
    """What the harness itself costs, if it has been measured."""
    data = _read("harness.json")
    if data is None:
        return []
    cases = {case["name"]: case for case in data["benchmarks"]}
    cache = {
        state: cases[f"test_feature_cache[{state}]"]["stats"]["min"]
        for state in ("cold", "warm", "damaged")
    }
    images = cases["test_feature_cache[cold]"]["extra_info"]["images"]
    machine = data["machine_info"]
    many = [case["extra_info"] for case in cases.values() if "cells" in case["extra_info"]]
    draw_cells(many, DOCS / "speed-cells.svg")
    lines = ["", "## The harness itself", ""]
    lines += [
        f"{machine['processor']}, CPU time of one thread.",
        f"Features of {images} images of the mini suite: computed in {cache['cold']:.2f} s,",
        f"read from the cache, with their checksum, in {1000 * cache['warm']:.1f} ms, and computed "
        f"again in {cache['damaged']:.2f} s",
        "where a byte is damaged. A cell without a fit (zero-shot) takes "
        f"{1000 * cases['test_empty_cell']['stats']['min']:.0f} ms, its",
        "evaluation on two backbones and its record included.",
        "",
        "Finished cells with synthetic figures are planned, stored, read back and reported:",
        "",
        "| cells | methods | plan, s | store, s | read, s | report, s | all, s |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for facts in sorted(many, key=lambda facts: (facts["methods"], facts["cells"])):
        parts = [facts["parts"][part] for part in ("plan", "store", "read", "report")]
        times = " | ".join(f"{seconds:.2f}" for seconds in (*parts, facts["cpu_seconds"]))
        lines.append(f"| {facts['cells']:,} | {facts['methods']} | {times} |")
    lines += ["", "![CPU seconds against the number of cells](speed-cells.svg)"]
    return [*lines, *_many()]


def _many() -> list[str]:
    """Whole commands over large stores and leaderboards, if they have been measured."""
    data = _read("many.json")
    if data is None:
        return []
    lines = [
        "",
        f"Whole commands, on {data['processor']}: `leaderboard` of {data['methods']} methods on "
        f"{data['tasks']} tasks, and the others",
        f"over {data['cells']:,} finished cells. *Aim* is the limit that they should keep.",
        "",
        "| command | CPU s | aim | peak memory, MB | aim |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, one in data["commands"].items():
        seconds, megabytes = BARS[name]
        memory = f"{one['mb']} | {'' if megabytes is None else megabytes}"
        lines.append(f"| `{name}` | {one['cpu_seconds']:.1f} | {seconds} | {memory} |")
    return lines


def _trainers() -> list[str]:
    """Whole fits done as the field's trainers do them, if they have been compared."""
    data = _read("trainers.json")
    if data is None:
        return []
    fits = data["fits"]
    lines = ["", "## Whole fits of the mini suite", ""]
    lines += [
        f"{data['processor']}, CPU seconds of one thread for one fit on `{data['task']}`: "
        f"{data['classes']} classes, a context of {data['context']}",
        "tokens. *Usual trainer*: every step encodes its images, and every class at the whole "
        "context, through",
        "open_clip's own text transformer; what CoOp on Dassl does. Draw, recipe and steps are the "
        "same.",
        "",
        "| method | usual trainer, s | compatbench, s | speed-up | right of "
        f"{next(iter(fits.values()))['images']} test images |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, one in fits.items():
        both = one["correct_trainers"], one["correct"]
        right = str(both[0]) if both[0] == both[1] else f"{both[0]} and {both[1]}"
        lines.append(_fit_row(name, one["trainers"], one["compatbench"], right))
    totals = [sum(one[way] for one in fits.values()) for way in ("trainers", "compatbench")]
    lines.append(_fit_row("all", totals[0], totals[1], ""))
    return [*lines, "", "TaskRes takes 256 images a step, the others 32."]


def _fit_row(name: str, before: float, after: float, right: str) -> str:
    return f"| {name} | {before:.1f} | {after:.1f} | **{before / after:.1f}** | {right} |"


def _mini() -> list[str]:
    """Cells of the mini suite in two checkouts, if they have been compared."""
    data = _read("cells.json")
    if data is None:
        return []
    lines = ["", "## Cells of the mini suite", ""]
    lines += [
        f"A step of a fit on `{data['task']}`, in CPU time of one thread, before attention by plan "
        "and kept memory",
        "and with them: the best of "
        f"{data['pairs']} of each, alternating, on a machine in use; *speed-up* is the median "
        "over pairs.",
        "Steps are products of matrices for two thirds, and those are as many as before.",
        "",
        "| method | before, ms | after, ms | speed-up |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, step in data["steps"].items():
        times = f"{1000 * step['before']:.1f} | {1000 * step['after']:.1f}"
        lines.append(f"| {name} | {times} | **{step['ratio']:.2f}** |")
    old, new = data["images"]
    return [
        *lines,
        "",
        f"The training images of three seeds, eight views of each, take {new:.1f} s to encode "
        f"instead of {old:.1f} s:",
        "seeds share them.",
    ]


def _indexes() -> list[str]:
    """An index ported to another model, if it has been measured."""
    data = _read("indexes.json")
    if data is None:
        return []
    lines = ["", "## A stored index", ""]
    ported, plain = (f"{data[name]:,.0f}" for name in ("ported", "plain"))
    lines += [
        f"{data['processor']}, CPU time of one thread, whose own rate is {data['matmul_gflops']} "
        "GFLOP/s. `port` reads, maps and",
        f"writes {ported} vectors of width {data['width']} in a second, in float32. The matrix "
        "product alone, with all vectors in",
        f"memory, does {plain}: **{data['ratio']:.2f}** times as many; best of several, in turn. "
        "Memory does not grow with the index (here of zeros):",
        "",
        "| vectors | CPU s | peak of the process, MiB |",
        "| ---: | ---: | ---: |",
    ]
    rows = data["memory"]
    return lines + [
        f"| {one['rows']:,} | {one['cpu_seconds']:.1f} | {one['peak_mib']:,} |" for one in rows
    ]


def _gpus() -> list[str]:
    """What GPUs do, a section for each card that was measured."""
    return [line for card, found in (_read("gpu.json") or {}).items() for line in gpu(card, found)]


def gpu(card: str, found: dict[str, Any]) -> list[str]:
    """The section of one card, whose figures are those of gpu.py."""
    rates = ", ".join(f"{rate:,.1f} in {name}" for name, rate in found["products"].items())
    lines = [
        "",
        f"## {card}",
        "",
        f"torch {found['torch']}, {found['cores']} cores. A square matrix product has, in TFLOP/s: "
        f"{rates}. ViT-B/16, random weights;",
        f"*share* is of the rate in bf16. All of it took {found['seconds']:.0f} s.",
        "",
        "| encoding in | images at once | images/s | share | peak, GiB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in found["encoding"]:
        lines.append(
            f"| {row['precision']} | {row['batch']} | {row['images_per_second']:,.0f} "
            f"| {row['share']:.0%} | {_gib(row['gib'])} |"
        )
    files = found["files"]
    lines += [
        "",
        f"From {files['files']:,} JPEG files of 500 × 375 pixels to features on the disk,",
    ]
    lines += [f"with {files['decoders']} decoders, in bf16, their start included: "]
    views = [one for name, one in files.items() if name.startswith("views_")]
    each = [
        f"{one['images_per_second']:,.0f} images/s with {one['views']} "
        f"view{'s' if one['views'] > 1 else ''}"
        for one in views
    ]
    lines[-1] += ", ".join(each) + "."
    lines += [
        "",
        "A step of CoOp, 16 context vectors, 32 images; its authors' code encodes these in it.",
        "",
        "| classes | in | compatbench, ms | peak, GiB | authors, ms | peak, GiB | times less |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["steps"]:
        theirs = row.get("authors")
        times = f"**{theirs / row['seconds']:.1f}**" if isinstance(theirs, float) else ""
        said = f"{1000 * theirs:.1f}" if isinstance(theirs, float) else theirs or "not timed"
        lines.append(
            f"| {row['classes']:,} | {row['precision']} | {1000 * row['seconds']:.1f} "
            f"| {_gib(row['gib'])} | {said} | {_gib(row.get('authors_gib'))} | {times} |"
        )
    worst = sorted(found["logits"].items(), key=lambda one: -one[1])
    name, most = worst[0]
    return [
        *lines,
        "",
        f"Logits of {len(worst)} methods after two steps, here and on a processor, differ by "
        f"{worst[len(worst) // 2][1]:.0e} at the median",
        f"and by {most:.0e} at most ({name}), in parts of the largest logit.",
    ]


def _gib(size: float | None) -> str:
    return "" if size is None else f"{size:.2f}"


def _read(name: str) -> Any:
    path = HERE / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def draw_cells(many: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "compatbench"
    from matplotlib import pyplot

    most = max(facts["methods"] for facts in many)
    found = sorted((f for f in many if f["methods"] == most), key=lambda facts: facts["cells"])
    cells = [facts["cells"] for facts in found]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    bottom = [0.0] * len(found)
    for part in ("plan", "store", "read", "report"):
        top = [b + facts["parts"][part] for b, facts in zip(bottom, found, strict=True)]
        axes.fill_between(cells, bottom, top, label=part, alpha=0.7)
        bottom = top
    axes.set(xlabel="finished cells", ylabel="CPU seconds", ylim=(0, None))
    axes.legend(loc="upper left")
    figure.savefig(path, metadata={"Date": None})


def draw_plot(cases: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "compatbench"
    from matplotlib import pyplot

    found = _by_classes(cases)
    classes = [case["extra_info"]["classes"] for case in found]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    plain = [case["extra_info"]["plain_seconds"] for case in found]
    axes.loglog(classes, plain, "o-", color="#777777", label="77 tokens for every class")
    axes.loglog(
        classes, [_seconds(case) for case in found], "o-", color="#0072b2", label="compatbench"
    )
    for case in found:
        facts = case["extra_info"]
        place = (facts["classes"], _seconds(case))
        axes.annotate(
            f"{facts['ratio']:.0f}×", place, (0, -14), textcoords="offset points", ha="center"
        )
    axes.set_xticks(classes, [str(n) for n in classes], minor=False)
    axes.set_xticks([], minor=True)
    axes.margins(y=0.15)
    axes.set(xlabel="classes", ylabel="CPU seconds, forward and backward")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
