"""Reports rendered with Jinja2, as Markdown or as one HTML file that contains its images.

The template of a report calls the macros of `templates/markdown.j2` or `templates/html.j2` as `doc`; both files define
the same ones. Every value is plain text: characters that would be mark-up are escaped.
"""

import base64
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import markupsafe
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distillation.evaluation.report import number_format

TEMPLATES = Path(__file__).with_name("templates")
MEDIA = {".png": "image/png", ".webp": "image/webp"}
FILTERS: dict[str, Callable[..., str]] = {
    name: value
    for name, value in vars(number_format).items()
    if getattr(value, "__module__", None) == number_format.__name__
}


def markdown(template: Path, data: Mapping[str, Any]) -> str:
    """Return the report as Markdown; its images are files next to it."""
    text = _render(template, data, "markdown", _escape_markdown)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def html(template: Path, data: Mapping[str, Any], *, images: Path) -> str:
    """Return the report as one HTML file with the images of the folder `images` inside."""

    def data_url(file: str) -> str:
        content = base64.b64encode((images / file).read_bytes()).decode("ascii")
        return f"data:{MEDIA[(images / file).suffix]};base64,{content}"

    return _render(template, data, "html", markupsafe.escape, data_url=data_url)


def _render(
    template: Path,
    data: Mapping[str, Any],
    syntax: str,
    escape: Callable[[Any], Markup],
    *,
    data_url: Callable[[str], str] = str,
) -> str:
    environment = Environment(
        loader=FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS | {"data_url": data_url})
    macros = environment.get_template(f"{syntax}.j2").module
    return environment.get_template(template.name).render(data, doc=macros)


def _escape_markdown(value: Any) -> Markup:
    """Escape what Markdown could read as mark-up within a line. A line end would end the row of a table."""
    if isinstance(value, Markup):
        return value
    return Markup(re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(str(value).split("\n"))))
