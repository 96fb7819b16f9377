"""View of the API guide: docs/api.md as a page, with the address of this server."""

from functools import lru_cache
from pathlib import Path

import markdown
from django.conf import settings
from django.http import HttpResponse
from django.utils.safestring import mark_safe
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from generation.api.views.problem_pages import Page

SOURCE = Path(settings.BASE_DIR) / "docs" / "api.md"
EXTENSIONS = ["tables", "fenced_code", "toc"]


@extend_schema(exclude=True)
class Guide(Page):
    def get(self, request: Request) -> HttpResponse:
        text, sections = _rendered()
        facts = {
            "guide": mark_safe(text),  # from our own file
            "sections": sections,
            "url": request.build_absolute_uri("/").rstrip("/"),
        }
        return self.page("guide", facts)


@lru_cache(maxsize=1)
def _rendered() -> tuple[str, list[dict[str, str]]]:
    """Return the HTML, and the id and title of each section. Computed once per process."""
    reader = markdown.Markdown(extensions=EXTENSIONS)
    text = reader.convert(SOURCE.read_text("utf-8"))
    # Tables wider than a phone scroll separately, also by keyboard.
    text = text.replace("<table>", '<div class="wide" tabindex="0" role="group"><table>')
    text = text.replace("</table>", "</table></div>").replace("<pre>", '<pre tabindex="0">')
    _, _, text = text.partition("</h1>")
    (top,) = reader.toc_tokens
    return text, [{"id": one["id"], "name": one["name"]} for one in top["children"]]
