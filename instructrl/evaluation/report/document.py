"""HTML skeleton of all pages: self-contained, without scripts, with a light and a dark colour scheme."""

from html import escape

from instructrl.package_files import REPORT_STYLE

# Makes the browser enforce it: the page sends no requests, and nothing in it is executed.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:; img-src data:"


def document(title: str, body: str) -> str:
    """A complete HTML page; `title` is text, `body` is markup."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{REPORT_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""
