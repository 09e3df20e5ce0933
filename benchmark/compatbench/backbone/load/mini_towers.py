"""The miniature CLIP and EVA-CLIP towers, built by open_clip and timm themselves.

open_clip reads the size of a CLIP image tower from its config, but the size of a timm tower from
the name of a timm model. So the mini suite's EVA-02 towers are registered under such names.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

# The EVA-02 block (arXiv:2303.11331): SwiGLU with a norm inside, a norm before the attention's
# output projection, and rotary positions.
_EVA02 = dict(
    img_size=48,
    patch_size=12,
    depth=6,
    qkv_fused=False,
    mlp_ratio=4 * 2 / 3,
    swiglu_mlp=True,
    scale_mlp=True,
    scale_attn_inner=True,
    use_rot_pos_emb=True,
    ref_feat_shape=(4, 4),
    global_pool="token",
)
_HEAD_WIDTH = 32
# The width of each tower by its name in timm. The wider one belongs to targets of a second source.
_WIDTHS = {"eva02_mini_patch12_clip_48": 128, "eva02_mini160_patch12_clip_48": 160}


@cache
def register_mini_towers(tasks_folder: Path) -> None:
    """Register the mini suite's models with open_clip, once per process."""
    import open_clip

    for name, width in _WIDTHS.items():
        _register_eva02(name, width)
    open_clip.add_model_config(tasks_folder / "mini" / "configs")


def _register_eva02(name: str, width: int) -> None:
    """Register an EVA-02 tower of this width with timm, which names it by a function."""
    import open_clip
    from timm.models import register_model
    from timm.models.eva import Eva

    def create(pretrained: bool = False, **settings: Any) -> Eva:
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            settings.pop(key, None)
        sizes = {"embed_dim": width, "num_heads": width // _HEAD_WIDTH}
        model = Eva(**{**_EVA02, **sizes, **settings})  # type: ignore[arg-type]
        facts = dict(
            input_size=(3, 48, 48),
            num_classes=0,
            pool_size=None,
            first_conv="patch_embed.proj",
            classifier="head",
            mean=open_clip.OPENAI_DATASET_MEAN,
            std=open_clip.OPENAI_DATASET_STD,
        )
        # timm reads these attributes. They are set through ``vars`` because the type stubs of
        # modules know only tensors and modules.
        vars(model).update(default_cfg=facts, pretrained_cfg=facts)
        return model

    create.__name__ = name
    # timm files a model under the module that defines it, which must be importable.
    create.__module__ = __name__
    register_model(create)
