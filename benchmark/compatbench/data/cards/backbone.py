"""The schema of a backbone card."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints, model_validator

from compatbench.data.cards.names import Name, RelativePath
from compatbench.data.cards.yaml_file import CardModel


class BackboneCard(CardModel):
    """A frozen vision-language model: architecture, weights and lineage.

    Its weights are one of: a file that ships beside the cards (``weights``), a release that
    open_clip knows (``tag``), a file or folder on this machine (``path``), or a repository
    for transformers (``provider: hf`` with ``repository``).
    """

    name: Name
    title: str
    provider: Literal["open_clip", "hf"] = "open_clip"  # the library that builds the model
    config: Name | None = None  # an open_clip model; a folder or repository brings its own
    tag: str | None = None  # open_clip's name of the weights
    repository: str = ""  # where the weights are on the Hugging Face hub
    files: tuple[Name, ...] = ()  # other names that people have the file under
    path: str | None = None  # checkpoint or model folder on this machine
    weights: RelativePath | None = None  # safetensors file, relative to tasks/
    # Of the weights file; default: that of the file that is found.
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    tokenizer: RelativePath | None = None  # byte-pair merges, in tasks/; default: the model's
    lineage: str = ""  # what the weights were initialised from
    text_from: Name | None = None  # card of the backbone from which the text tower began
    data: str = ""
    licence: str

    @model_validator(mode="after")
    def _weights_are_somewhere(self) -> BackboneCard:
        if self.weights is not None and self.sha256 is None:
            raise ValueError("weights that ship beside the cards need their 'sha256'")
        if self.provider == "hf":
            if not self.path and not self.repository:
                raise ValueError("a model of provider hf needs 'repository' or 'path'")
        elif not self.config and not self.path:
            raise ValueError("a model of open_clip needs 'config'")
        elif not (self.weights or self.tag or self.path):
            raise ValueError("the weights need 'tag', 'path' or 'weights'")
        return self
