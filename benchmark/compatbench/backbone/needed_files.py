"""List the files that backbones need, with sizes and licences, before anything is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from compatbench.backbone.build import build_architecture
from compatbench.backbone.load.backbone_names import read_backbone
from compatbench.backbone.load.find_weights import (
    check_network,
    fetch_command,
    find_weights,
    is_offline,
    published_weights,
)
from compatbench.backbone.load.tokenizer_files import (
    VOCABULARIES,
    find_tokenizer,
    how_to_fetch,
    tokenizer_repository,
)
from compatbench.data.cards import BackboneCard
from compatbench.errors import CompatbenchError, MissingWeights
from compatbench.files.sizes import format_bytes

BYTES = 4  # of a parameter, where a file's size is not known


@dataclass(frozen=True)
class NeededFile:
    """A file of a backbone: its weights, or a tokenizer that is stored apart from them."""

    backbone: str
    kind: str  # "weights" or "tokenizer"
    name: str  # of the file; for one of the hub, with its repository
    licence: str
    path: Path | None = None  # where it is on this machine; None if it is not here
    size: int | None = None  # in bytes; None if nothing is known of it
    exact: bool = True  # False if the size follows from the number of parameters
    # If it is not here: the command that downloads it where there is a network, or its address.
    fetch: str = ""

    @property
    def size_in_words(self) -> str:
        """Return the size as people read it, such as ``571 MiB`` or ``about 571 MiB``."""
        if self.size is None:
            return "size unknown"
        return format_bytes(self.size) if self.exact else f"about {format_bytes(self.size)}"


def list_needed_files(backbones: Sequence[str]) -> list[NeededFile]:
    """Return the files that backbones need, each with its size and licence. Download none of them.

    The hub is asked for the sizes of files that are not here, unless the user is offline. If it
    does not answer, the size of weights is computed from the number of parameters.

    Raises:
        CompatbenchError: an unknown name, or a card that is broken.
    """
    files = []
    for name in dict.fromkeys(backbones):
        card = read_backbone(name)
        files.append(describe_weights(card))
        tokenizer = describe_tokenizer(card)
        if tokenizer is not None:
            files.append(tokenizer)
    return files


def describe_weights(card: BackboneCard, ask_hub: bool = True) -> NeededFile:
    """Return the weights file of a card, with its size and licence.

    Args:
        ask_hub: ask the hub for the size if the file is not here.

    Raises:
        CompatbenchError: the card is broken.
    """
    try:
        path = find_weights(card)
    except MissingWeights:
        published = published_weights(card)
        name = published.files[0] if published.files else ""
        if published.repository:
            name = f"{published.repository}/{name}"
        elif published.url:
            name = Path(published.url).name
        sizes = _ask_hub(published.repository, card.revision) if ask_hub else {}
        size = next((sizes[file] for file in published.files if sizes.get(file)), None)
        is_exact = size is not None
        if size is None:
            size = _estimate_size(card)
        command = fetch_command(card) or published.url
        return NeededFile(card.name, "weights", name, card.licence, None, size, is_exact, command)
    return NeededFile(card.name, "weights", path.name, card.licence, path, path.stat().st_size)


def describe_tokenizer(card: BackboneCard, ask_hub: bool = True) -> NeededFile | None:
    """Return the tokenizer that a card needs apart from its weights; None if it needs none."""
    repository = tokenizer_repository(card)
    if not repository:
        return None
    path = find_tokenizer(repository)
    if path is not None:
        name = f"{repository}/{path.name}"
        size = path.stat().st_size
        return NeededFile(card.name, "tokenizer", name, card.licence, path, size)
    sizes = _ask_hub(repository, None) if ask_hub else {}
    file = next((file for file in VOCABULARIES if file in sizes), VOCABULARIES[0])
    return NeededFile(
        card.name,
        "tokenizer",
        f"{repository}/{file}",
        card.licence,
        None,
        sizes.get(file),
        fetch=how_to_fetch(repository),
    )


def _estimate_size(card: BackboneCard) -> int | None:
    """Return the size of weights from the number of parameters; None if that is not known."""
    try:
        model = build_architecture(card, device="meta")
    except CompatbenchError:
        return None
    return BYTES * sum(parameter.numel() for parameter in model.parameters())


@cache
def _ask_hub(repository: str, revision: str | None) -> dict[str, int | None]:
    """Return the sizes of a repository's files by name; empty if the hub does not answer."""
    if not repository or is_offline():
        return {}
    from huggingface_hub import HfApi

    try:
        check_network()
        about: Any = HfApi().model_info(repository, revision=revision, files_metadata=True)
    # The hub raises the errors of its HTTP library, which differs between versions.
    except Exception:
        return {}
    return {file.rfilename: file.size for file in about.siblings or ()}
