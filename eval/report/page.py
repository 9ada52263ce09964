"""HTML for a report: a page whose pictures lie in it, and the little Markdown that our tables are written in."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

MIME = {".png": "image/png", ".gif": "image/gif", ".svg": "image/svg+xml"}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body {{ margin: 2em auto; max-width: 60em; padding: 0 1em; font: 16px/1.5 system-ui, sans-serif; color: #222 }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; margin: 1em 0 }}
th, td {{ border-bottom: 1px solid #ddd; padding: .25em .8em; text-align: left; vertical-align: top }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums }}
figure {{ margin: 1.5em 0 }}
figcaption {{ color: #666; font-size: 85% }}
img {{ max-width: 100% }}
code, pre {{ font-size: 85%; background: #f5f5f5 }}
pre {{ padding: 1em; overflow-x: auto }}
h1 {{ overflow-wrap: anywhere }}
h2 {{ margin-top: 2.5em; border-top: 1px solid #ddd; padding-top: 1em; overflow-wrap: anywhere }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML document of these pieces of HTML."""
    return PAGE.format(title=escape(title), body="\n".join(parts))


def heading(level: int, text: str) -> str:
    """A heading of level 1 to 6."""
    return f"<h{level}>{escape(text)}</h{level}>"


def facts(values: Mapping[str, Any]) -> str:
    """A table of names and values; those that are None or empty are left out."""
    shown = {key: value for key, value in values.items() if value is not None and value != [] and value != ""}
    return f"<table>{''.join(_row('td', [escape(key), _value(value)]) for key, value in shown.items())}</table>"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(" ".join(map(str, value)) if isinstance(value, list) else str(value))


def picture(caption: str, suffix: str, data: bytes) -> str:
    """A picture with its caption, held in the page itself. suffix: .png, .gif or .svg."""
    encoded = base64.b64encode(data).decode()
    image = f'<img src="data:{MIME[suffix]};base64,{encoded}" alt="{escape(caption)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def folded(title: str, html: str) -> str:
    """A piece of HTML that is hidden until its title is clicked."""
    return f"<details><summary>{escape(title)}</summary>{html}</details>"


def preformatted(text: str) -> str:
    """A text as it is, in a font of one width."""
    return f"<pre>{escape(text)}</pre>"


def html_of_markdown(text: str) -> str:
    """The HTML of headings, tables, paragraphs, bold, code and <sup>: all that our pages of results are written in."""
    return "\n".join(_block(block) for block in re.split(r"\n{2,}", text.strip()))


def _block(block: str) -> str:
    if match := re.match("(#+) (.*)", block):
        return f"<h{len(match[1]) + 1}>{_inline(match[2])}</h{len(match[1]) + 1}>"
    if not block.startswith("|"):
        return f"<p>{_inline(block)}</p>"
    header, rules, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    numeric = [rule.endswith(":") for rule in rules]
    lines = [_row("th", [*map(_inline, header)], numeric), *(_row("td", [*map(_inline, row)], numeric) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def _row(tag: str, cells: Sequence[str], numeric: Sequence[bool] = ()) -> str:
    numeric = [*numeric, *[False] * (len(cells) - len(numeric))]
    opened = (f'<{tag} class="number">' if right else f"<{tag}>" for right in numeric)
    return f"<tr>{''.join(f'{open_}{cell}</{tag}>' for open_, cell in zip(opened, cells, strict=True))}</tr>"


def _inline(text: str) -> str:
    text = re.sub(r"&lt;(/?sup)&gt;", r"<\1>", escape(text, quote=False))
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)
