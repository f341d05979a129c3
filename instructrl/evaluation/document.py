"""What holds a page of ours together: it asks for nothing else, runs no script, and follows light and dark."""

from html import escape
from pathlib import Path

STYLE = Path(__file__).with_name("report.css")
# The browser itself then keeps the promise: no request leaves the page, and nothing in it is executed.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:; img-src data:"


def document(title: str, body: str) -> str:
    """A whole HTML page; `title` is text, `body` is markup."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""
