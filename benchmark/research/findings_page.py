"""Make the generated sections of ``docs/findings.md``."""

from __future__ import annotations

import adapted_modules
import paper_claims
import real_task
import several_targets
import word_gains
from pages import Page


def make_page() -> Page:
    """Return the sections of all findings that the committed results give."""
    sections = paper_claims.make_sections()
    sections |= several_targets.make_sections()
    sections |= real_task.make_sections()
    sections |= adapted_modules.make_sections()
    sections |= word_gains.make_sections()
    return Page(sections)
