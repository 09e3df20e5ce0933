"""What the schemas of all cards share: names, and paths within ``tasks/``."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

# A name becomes part of a path, so it may not hold separators or dots alone.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
# Inside tasks/ and nowhere else.
_PART = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
RelativePath = Annotated[str, StringConstraints(pattern=rf"^{_PART}(/{_PART})*$")]
# The name of a card, or one that needs no card: MODEL/TAG, MODEL@FILE, MODEL/TAG@FILE,
# local-dir:FOLDER, hf:FOLDER and hf:OWNER/NAME.
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_PATH = r"[^\s\x00-\x1f]([^\x00-\x1f]{0,998}[^\s\x00-\x1f])?"
BackboneName = Annotated[
    str,
    StringConstraints(pattern=rf"^({_NAME}(/{_NAME})?(@{_PATH})?|(local-dir|hf):{_PATH})$"),
]
