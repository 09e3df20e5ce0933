"""VPT-shallow: learned tokens among those of the image, once, at the tower's input.

The tokens enter with the image's own before the first block and pass through all blocks. The
class weights are the zero-shot text features.
"""

from __future__ import annotations

from pydantic import PositiveInt

from compatbench.method import MethodCard

from .vpt_deep import VPTDeep


class VPTShallow(VPTDeep):
    """n learned tokens enter the first block with the image's own, and pass through all.

    Jia et al., *Visual Prompt Tuning*, section 3.2: VPT-deep with J = 1.
    """

    card = MethodCard(
        name="vpt_shallow",
        title="VPT-shallow",
        paper="arXiv:2203.12119",
        inserts="image-layers",
        summary="learned image tokens at the tower's input",
    )

    class Config(VPTDeep.Config):
        depth: PositiveInt = 1

    config: Config
