"""Docstrings on the site: a line `name: what it is` becomes an item of a list. An extension of griffe (mkdocs.yml)."""

import re
from typing import Any

import griffe

ITEM = re.compile(r"([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*): (?=\S)")


class Items(griffe.Extension):
    """Rewrites the docstring of everything that is documented."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every object that it has read."""
        if obj.docstring:
            obj.docstring.value = itemised(obj.docstring.value)


def itemised(text: str) -> str:
    """The text as Markdown, its lines `name: ...` as items that go on as long as lines are indented."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        starts = ITEM.match(line) is not None
        if starts != inside and not line.startswith(" "):
            lines.append("")  # a list begins or ends
        inside = starts or (inside and line.startswith(" "))
        lines.append(ITEM.sub(r"- `\1`: ", line) if starts else line)
    return "\n".join(lines)
