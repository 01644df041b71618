"""Page texts: templates that lie in `templates/`, as files to read and edit, with named places to fill."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def filled_page(template: str, **places: Any) -> str:
    """The text of a template with its named places filled; KeyError names one that got no value."""
    return (Path(__file__).with_name("templates") / template).read_text(encoding="utf8").format(**places)
