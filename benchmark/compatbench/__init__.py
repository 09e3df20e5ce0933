"""compatbench: do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?"""

__version__ = "0.1.0"
