"""What a method's card may need besides a few labelled images, class names and templates."""

from __future__ import annotations

from typing import Literal

Need = Literal["descriptions", "unlabelled", "teacher", "stream", "words"]
# What each of them is, for lists and pages.
NEEDS: dict[Need, str] = {
    "descriptions": "descriptions of the classes",
    "unlabelled": "all training images, without labels",
    "teacher": "another backbone as a teacher (outside information)",
    "stream": "all test images at once, in a drawn order",
    "words": "a list of common words, read by both backbones",
}
