"""The console of a stream: what is printed there cannot be taken for a command to the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from compatbench.messages import printable


class SafeConsole(Console):
    """A console on which no text of a file or card can move the cursor or hide what is there."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
