"""A report as a page of HTML: Markdown in, and nothing that a text from outside could make of it."""

from __future__ import annotations

from typing import Final

from markdown_it import MarkdownIt

_HEAD: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>What the broker's ledger proves</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 75em; margin: 2em auto; padding: 0 1em; }
h1, h2, h3 { line-height: 1.2; margin: 1.6em 0 0.5em; }
h2 { border-bottom: 1px solid #bbb; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.9em; }
th, td { border: 1px solid #ccc; padding: 0.25em 0.6em; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; min-width: 4em; max-width: 30em; }
th { background: #eee; }
@media print { body { max-width: none; font-size: 9pt; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
</style>
</head>
<body>
"""


def page(markdown: str) -> str:
    """Return the page. HTML in the Markdown is text, no address becomes a link, and nothing is loaded."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    return f"{_HEAD}{reader.render(markdown)}</body>\n</html>\n"
