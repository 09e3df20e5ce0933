"""Captions for pre-training: short, medium and long sentences about one drawing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .sets import icon_sets

COLOURS = [
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "white",
    "black",
    "gray",
    "brown",
    "cyan",
]

SHORT = (
    "a photo of a {}.",
    "a photo of a {}.",
    "a photo of a {}.",
    "a photo of a {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
    "an icon of a {}.",
    "an image of a {}.",
    "a small picture of a {}.",
    "a photo of the {}.",
    "a good photo of a {}.",
    "this is a {}.",
    "a {} {kind}.",
    "a simple {style} drawing of a {}.",
    "a {style} {kind} of a {}.",
)
MEDIUM = (
    "a photo of a {} on a {background} background.",
    "a {background} picture with a {} in it.",
    "a {style} {kind} of a {} from the {set} set.",
    "a drawing of a {}, in the style of {set}.",
    "this is a picture of a {} and it says {tags}.",
    "a photo of a {}, which means {tags}.",
)
# What is shown comes late in most of them, so that the positions which long
# learned prompts push the class name to are trained too.
LONG = (
    "a small simple {style} {kind} drawing in the {set} style "
    "on a plain {background} background that shows a {}.",
    "this is a simple little picture with a {background} background, "
    "it was drawn for the {set} set, and it shows a {}.",
    "{tags}, all of that is meant by this {style} {kind} on a {background} background: "
    "a photo of a {}.",
    "here you see one of the many pictures from the {set} {kind} set: "
    "it is a {style} drawing of a {}.",
    "a {style} {kind} picture on a {background} background showing a {}, "
    "{tags}, in the {set} style.",
    "in the middle of a {background} picture there is a {}, "
    "a {style} {kind} in the {set} style, {tags}.",
    "a good clear photo, seen from the front, small and simple, "
    "on a {background} background, of a {}.",
    "one of many pictures that people know from screens, signs and messages, "
    "and this one here means {tags}: a {}.",
    "{style} {kind}, {background} background, {set} style, no text, no frame, "
    "one thing only in the middle of it: a {}.",
    "if you were asked what this {style} {kind} of the {set} set shows, "
    "you would say that it is a {}.",
)
BARE_SHARE, MEDIUM_SHARE, LONG_SHARE = 0.25, 0.15, 0.20
INK_SHARE = 0.25
TAG_SHARE, TAG_ONLY_SHARE = 0.30, 0.40
TONE_SHARE, STYLE_SHARE = 0.5, 0.3
TONE_NAMES = ("", "light", "medium light", "medium", "medium dark", "dark")

#: Words of the templates, so that the tokenizer knows them as whole words.
FIXED_WORDS = tuple(
    sorted(
        {
            word
            for template in (*SHORT, *MEDIUM, *LONG)
            for word in template.replace(".", " ").replace(",", " ").replace(":", " ").split()
            if "{" not in word
        }
        | {"emoji", "icon", "skin", "tone", "outline", "filled", *COLOURS}
        | {".", ","}
    )
)


@dataclass(frozen=True)
class CaptionWriter:
    """Writes captions for the drawings of a table.

    Attributes:
        labels: What each drawing shows, in words.
        tags: Further words for it; may be empty.
        styles: The drawing's own style words; may be empty.
        kinds: ``emoji`` or ``icon``.
        sets: Name of the drawing's set, in words.
        tones: Skin tone, 0 for none, 1 (light) to 5 (dark).
    """

    labels: list[str]
    tags: list[list[str]]
    styles: list[str]
    kinds: list[str]
    sets: list[str]
    tones: list[int]

    @classmethod
    def for_table(cls, table: pd.DataFrame) -> CaptionWriter:
        """Makes a writer for the drawings of a table (see names.read_names)."""
        words = [
            label.replace("flag: ", "flag of ") or concept.replace("-", " ")
            for label, concept in zip(table.label, table.concept, strict=True)
        ]
        known = icon_sets()
        return cls(
            labels=words,
            tags=[tags.split("|") if tags else [] for tags in table.tags],
            styles=[
                style or known[s].style for style, s in zip(table["style"], table.set, strict=True)
            ],
            kinds=["emoji" if emoji else "icon" for emoji in table.emoji],
            sets=[name.replace("-", " ") for name in table.set],
            tones=table.tone.tolist(),
        )

    def write(self, index: int, background: int, ink: int, rng: np.random.Generator) -> str:
        """Writes one caption.

        Args:
            index: Row of the drawing.
            background: Index of the background's colour in COLOURS.
            ink: Index of the drawing's colour in COLOURS, -1 for more than one.
            rng: Decides the wording.
        """
        kind = rng.random()
        shown = self._shown(index, rng)
        if ink >= 0 and rng.random() < INK_SHARE:
            shown = f"{COLOURS[ink]} {shown}"
        if kind < BARE_SHARE:
            return shown
        if kind < BARE_SHARE + LONG_SHARE:
            templates = LONG
        elif kind < BARE_SHARE + LONG_SHARE + MEDIUM_SHARE:
            templates = MEDIUM
        else:
            templates = SHORT
        template = templates[rng.integers(len(templates))]
        tags = self._some_tags(index, rng, 3) or self.labels[index]
        return template.format(
            shown,
            kind=self.kinds[index],
            style=self.styles[index],
            set=self.sets[index],
            background=COLOURS[background],
            tags=tags,
        )

    def _shown(self, index: int, rng: np.random.Generator) -> str:
        shown = self.labels[index]
        if self.tags[index] and rng.random() < TAG_SHARE:
            tags = self._some_tags(index, rng, 3)
            shown = tags if rng.random() < TAG_ONLY_SHARE else f"{shown}, {tags}"
        if 0 < self.tones[index] < len(TONE_NAMES) and rng.random() < TONE_SHARE:
            shown += f" with {TONE_NAMES[self.tones[index]]} skin tone"
        if self.kinds[index] == "icon" and rng.random() < STYLE_SHARE:
            shown += f" {self.styles[index]}"
        return shown

    def _some_tags(self, index: int, rng: np.random.Generator, most: int) -> str:
        tags = self.tags[index]
        count = min(len(tags), int(rng.integers(1, most + 1)))
        return ", ".join(tags[i] for i in rng.permutation(len(tags))[:count])
