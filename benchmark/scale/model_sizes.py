"""The table of models' sizes that ``compatbench plan`` reads, made from architectures alone.

python benchmark/scale/model_sizes.py    # of every model of the open_clip that is installed

Models whose text tower is another library's, which would be downloaded, are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from compatbench.backbone import ImageTower
from compatbench.backbone.build import build_architecture
from compatbench.backbone.load.names import model_names, tags_of
from compatbench.data.cards.schemas import BackboneCard
from compatbench.engine.model_size import TABLE, ModelSize
from compatbench.errors import CompatbenchError, NotTransferable


def measure_architecture(config: str) -> ModelSize | None:
    """The sizes of a model that open_clip knows, built without memory; None if it cannot be."""
    # Of some models the tag decides how images are normalised; the sizes are the same.
    where = {"tag": tags[0]} if (tags := tags_of(config)) else {"path": config}
    facts = {"name": "unnamed", "title": config, "config": config, "licence": "unknown"}
    try:
        card = BackboneCard.model_validate(facts | where)
        model: Any = build_architecture(card, device="meta")
    except CompatbenchError:
        return None
    visual, text = model.visual, getattr(model, "text", model)
    patches = next((each for each in visual.modules() if isinstance(each, nn.Conv2d)), None)
    if patches is None or not hasattr(getattr(text, "transformer", None), "resblocks"):
        return None
    projection, width = getattr(text, "text_projection", None), patches.out_channels
    if projection is not None:  # or else the towers are of one width
        width = getattr(projection, "out_features", None) or projection.shape[1]
    size = visual.preprocess_cfg["size"]
    side = size if isinstance(size, int) else min(size)
    try:
        tower = ImageTower(visual, config)
        blocks, tokens, channels = tower.depth, tower.tokens, tower.width
    except NotTransferable:  # an estimate
        lists = nn.ModuleList, nn.Sequential
        blocks = max(len(each) for each in visual.modules() if isinstance(each, lists))
        tokens, channels = (side // patches.kernel_size[0]) ** 2 + 1, patches.out_channels
    return ModelSize(
        parameters=_count_weights(model),
        embed_dim=width,
        text_weights=_count_weights(text.transformer),
        text_blocks=len(text.transformer.resblocks),
        image_weights=_count_weights(visual),
        image_blocks=blocks,
        image_tokens=tokens,
        image_width=channels,
        image_side=side,
        gated=int(any(type(each).__name__ in ("SwiGLU", "GluMlp") for each in visual.modules())),
    )


def _count_weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def main() -> None:
    """Write the table of models' sizes, the mini models first."""
    names = sorted(model_names(), key=lambda name: (not name.startswith("mini-"), name))
    sizes = {config: size for config in names if (size := measure_architecture(config))}
    table = pd.DataFrame([*sizes.values()], pd.Index([*sizes], name="config"))
    Path(TABLE).write_text(table.to_csv(lineterminator="\n"), encoding="utf-8")


if __name__ == "__main__":
    main()
