"""Text that others wrote, such as a name of a set of texts, the source of an evidence file, a title or a path, shown as
text whatever it says.

Everything of this kind passes through here on its way into a page: no HTML, Markdown, MyST, TeX or template of a
figure that stands in it takes effect. Names that a profile checks (`study.sections.Name`) need none of this.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_MARKUP = re.compile(r"[&<>\"'\\`*_{}\[\]()#|$~^=%!@]|^[^\w\s]|:(?=[:/])|(?<=\bwww)\.|(?<=\d)[.)](?=\s)")
_LONGEST = 80  # characters of a label in a figure: room for the figure stays
_LABEL = re.compile(r"[&<>$]|%(?=\{)")  # of plotly: pseudo-HTML, TeX, templates


def _line(text: Any) -> str:
    """The text on one line, without characters that steer a terminal or the direction of writing."""
    return " ".join(_UNSEEN.sub("\ufffd", str(text).replace("\r\n", "\n")).split())


def _entity(found: re.Match) -> str:
    return f"&#{ord(found[0])};"


def as_markdown(text: Any) -> str:
    """Inline Markdown or MyST that shows `text`, on one line: what could be markup is written as entities."""
    return _MARKUP.sub(_entity, _line(text))


def as_code(text: Any) -> str:
    """A code span of Markdown that shows `text`, on one line."""
    line = _line(text).strip("`") or "\ufffd"
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"


def as_block(text: Any, language: str = "text") -> str:
    """A fenced block of Markdown that shows `text`, with its lines."""
    body = "\n".join(_UNSEEN.sub("\ufffd", line) for line in str(text).strip().splitlines())
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", body)), default=0))
    return f"{fence}{language}\n{body}\n{fence}\n"


def as_html(text: Any) -> str:
    """HTML, of an element or an attribute, that shows `text`; without a blank line, which would end HTML in a page of
    Markdown."""
    return escape(_UNSEEN.sub("\ufffd", str(text)), quote=True).replace("\n", "&#10;")


def _cut(text: Any) -> str:
    shown = _UNSEEN.sub("\ufffd", str(text))
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST - 1]}…"


def as_drawn(text: Any) -> str:
    """A text of a matplotlib figure that shows `text`: no TeX, and no entry that its legend takes for a hidden one."""
    shown = _cut(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def as_label(text: Any) -> str:
    """A text of a plotly figure that shows `text`; its lines stay lines."""
    return _LABEL.sub(_entity, _cut(text)).replace("\n", "<br>")
