"""HTML pages from Jinja templates: self-contained, without scripts, with a light and a dark colour scheme.

All values are escaped by the templates; Python code builds no markup.
"""

from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from instructrl.package_files import PAGE_TEMPLATES, REPORT_STYLE


def render(template: str, **values: object) -> str:
    """Render one of templates/*.html.j2."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """The templates, with automatic escaping; a value that is missing is an error."""
    loaded = Environment(
        loader=FileSystemLoader(PAGE_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    loaded.globals["style"] = REPORT_STYLE.read_text(encoding="utf-8")
    return loaded
