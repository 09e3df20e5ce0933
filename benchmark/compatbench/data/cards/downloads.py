"""The schema of what a dataset is downloaded from."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import PositiveInt, StringConstraints, TypeAdapter, model_validator

from compatbench.data.cards.names import ImagesPath, Link, Name, RelativePath
from compatbench.data.cards.yaml_file import CardModel

NO_HASH = "none is published"
Hash = Annotated[
    str, StringConstraints(pattern=rf"^(md5:[0-9a-f]{{32}}|sha256:[0-9a-f]{{64}}|{NO_HASH})$")
]


class Download(CardModel):
    """A file that a part of a dataset comes from: an archive, or a file that is used as it is."""

    url: Link | None = None  # the file's own address; one of Google Drive's pages serves, too
    page: Link | None = None  # where a person gets it, if it has no address or that fails
    file: Name = ""  # its name; default: the last part of the address
    hash: Hash
    bytes: PositiveInt | None = None
    # Paths in the dataset's folder, and what is put there, by its path in the archive ('.' is
    # all of it); empty: the file itself.
    gives: dict[ImagesPath, ImagesPath] = {}
    inner: RelativePath | None = None  # the archive in the archive that holds these
    licence: str = ""  # default: the card's
    agree: bool = False  # whether that must be agreed to before
    note: str = ""  # what a person must know who gets it by hand

    @model_validator(mode="before")
    @classmethod
    def _name_the_file(cls, values: object) -> object:
        if isinstance(values, dict) and "file" not in values and isinstance(values.get("url"), str):
            return values | {"file": PurePosixPath(urlsplit(values["url"]).path).name}
        return values

    @model_validator(mode="after")
    def _check(self) -> Download:
        if not (self.url or self.page):
            raise ValueError("a download needs 'url' or 'page'")
        TypeAdapter(Name).validate_python(self.file)
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """The paths in the dataset's folder that it fills."""
        return tuple(self.gives) or (self.file,)

    @property
    def published(self) -> str:
        """``md5:...`` or ``sha256:...``; empty if none is published."""
        return "" if self.hash == NO_HASH else self.hash
