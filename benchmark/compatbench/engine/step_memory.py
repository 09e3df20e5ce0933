"""What a step of training through towers takes of a worker's memory, and which cards hold it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

from compatbench.backbone import ImageInput
from compatbench.backbone.parts.memory import kept_numbers
from compatbench.data.cards import TaskCard
from compatbench.engine.matrix import MethodChoice
from compatbench.engine.model_size import FLOAT, ModelSize
from compatbench.files.sizes import format_bytes
from compatbench.method.trained import TrainedMethod

AUTOGRAD = 250 * 2**20  # bytes that PyTorch takes beside what is counted
NAME_TOKENS = 4  # of a class name, with the end of text
TEXT_NUMBERS = 16  # that a text tower's block keeps for the backward pass, for each of a token's
# Numbers for each of a tower whose every weight is trained: its difference, the sum of both, the
# gradient, and the optimiser's two moments.
TRAINED_STATES = 5
CARDS = (24, 48, 80)  # gigabytes that cards have
TEXT_PLACES = {"text-input", "text-layers"}


class StepMemory(NamedTuple):
    """A training step of a method on a backbone, in bytes.

    Attributes:
        images: of a batch.
        states: of towers whose every weight is trained.
        text: what the backward pass of all prompts keeps.
        image: what that of an image keeps.
    """

    method: str = ""
    backbone: str = ""
    images: int = 0
    states: int = 0
    text: int = 0
    image: int = 0

    def describe(self, room: int) -> str:
        """Which it is, how many images it takes at once, and what one batch would take."""
        if not (self.text or self.image):
            return "none that acts in a tower"
        batch = ""
        if self.image:
            at_once = min(max(room // self.image, 1), self.images)
            batch = f", {at_once} of {self.images} images at once"
        whole = format_bytes(self.count_bytes())
        return f"{self.method} on {self.backbone}{batch}; {whole} for a whole batch"

    def count_bytes(self, room: float = math.inf) -> int:
        """Bytes in all, where each tower's activations take ``room`` and no less than an image."""
        image = min(self.images * self.image, max(room, self.image))
        kept = self.states + int(min(self.text, room) + image)
        return AUTOGRAD + kept if kept else 0


def image_input(choice: MethodChoice, task: str, name: str, size: ModelSize) -> ImageInput:
    """What the method takes of an image of a backbone, whose weights need not be here."""
    towers = [SimpleNamespace(depth=n) for n in (size.image_blocks, size.text_blocks)]
    sketch: Any = SimpleNamespace(name=name, image=towers[0], text=towers[1])
    return choice.build(task).image_input(sketch)


def count_step(choice: MethodChoice, card: TaskCard, name: str, size: ModelSize) -> StepMemory:
    """A training step of a method on a backbone, with its settings for a task."""
    method, text, image, states = choice.build(card.name), 0.0, 0, 0
    if not isinstance(method, TrainedMethod):
        return StepMemory()
    images, places = method.config.recipe.batch_size, method.card.places
    if TEXT_PLACES.intersection(places):
        prompts = images if method.card.prompts_per_image else 1
        numbers = prompts * len(card.classes) * NAME_TOKENS * size.text_numbers
        text = numbers * TEXT_NUMBERS * FLOAT
    if "image-layers" in places:
        wanted = image_input(choice, card.name, name, size)
        blocks = size.image_blocks - (max(wanted.block, 0) if wanted.kind == "hidden" else 0)
        whole = "image" in method.trained_towers
        tokens = size.image_tokens, size.image_width
        image = kept_numbers(*tokens, blocks, trained=whole, gated=bool(size.gated)) * FLOAT
    for tower, weights in (("text", size.text_weights), ("image", size.image_weights)):
        states += (tower in method.trained_towers) * TRAINED_STATES * weights * FLOAT
    return StepMemory(choice.name, name, images, states, int(text), image)
