"""The guide: docs/api.md as a page of the server."""

import re

import pytest
from django.test import Client

from generation.api.views import guide

pytestmark = pytest.mark.django_db


def test_the_guide_is_the_document_with_the_address_of_this_server():
    page = Client().get("/v1/guide", headers={"host": "localhost"})
    html = page.content.decode()
    assert page.status_code == 200 and page["Content-Type"].startswith("text/html")
    assert "export URL=http://localhost\n" in html
    for title in re.findall(r"^## (.+)$", guide.SOURCE.read_text(), re.MULTILINE):
        assert re.search(rf'<h2 id="[\w-]+">{re.escape(title)}</h2>', html), title
        assert re.search(rf'<li><a href="#[\w-]+">{re.escape(title)}</a>', html), title
    assert html.count("<table>") == html.count('<div class="wide"') > 5
    assert "```" not in html and "| --- |" not in html


def test_every_link_of_the_guide_works():
    html = Client().get("/v1/guide").content.decode()
    ids = set(re.findall(r'id="([^"]+)"', html))
    for link in re.findall(r'href="([^"]+)"', html):
        if link.startswith("#"):
            assert link[1:] in ids, link
        elif not link.startswith(("https://", "/static/")):
            assert Client().get(link).status_code in (200, 302), link


def test_guide_and_reference_link_to_each_other():
    assert 'href="/v1/docs"' in Client().get("/v1/guide").content.decode()
    assert "](/v1/guide)" in Client().get("/v1/openapi.json").json()["info"]["description"]
    assert 'href="/v1/guide"' in Client().get("/v1/problems").content.decode()
