"""What happens in a browser: trying the API out, and Enter in the search, on the web process as deployed."""

from collections.abc import Iterator

import pytest

from generation.models import Job
from tests.acceptance import browser
from tests.acceptance.browser import Visitor
from tests.people import make_embedding, make_key, make_release, make_user, make_variant
from tests.web import Web, eventually

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_server"),
    pytest.mark.acceptance,
    pytest.mark.slow,
    pytest.mark.skipif(browser.installed() is None, reason="no Chromium is installed"),
]


@pytest.fixture
def visitor(web: Web, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visitor]:
    # Playwright runs an event loop in this thread, where Django refuses queries otherwise.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    make_release()
    for text in ("a blue bowl", "a red clay vase", "a red glass vase"):
        make_embedding(variant=make_variant(text=text))
    with browser.chromium() as chromium:
        found = Visitor(chromium, web.url)
        yield found
        assert found.complaints == []
        found.close()


def test_a_job_is_tried_out_in_the_reference_with_one_click(visitor: Visitor):
    _, plain = make_key()
    page = visitor.page
    page.goto("/v1/docs")
    page.get_by_role("button", name="Authorize").first.click()
    page.locator(".auth-container input").fill(plain)
    page.locator(".auth-btn-wrapper .authorize").click()
    page.locator(".auth-btn-wrapper .btn-done").click()
    operation = page.locator("#operations-Jobs-create_job")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Execute").click()
    operation.locator(".live-responses-table .response-col_status", has_text="202").wait_for()
    assert Job.objects.get().variant.text == "a blue bowl"


def test_enter_takes_the_first_prompt_that_the_search_found(visitor: Visitor):
    make_user(username="admin", password="a good password")
    visitor.log_in("a good password")
    page = visitor.page
    page.get_by_label("Prompt", exact=True).fill("red vase")
    page.locator(".variant.own").wait_for()
    page.get_by_label("Prompt", exact=True).press("Enter")
    page.locator("#open .card").wait_for()
    eventually(Job.objects.exists)
    assert Job.objects.get().variant.text == "a red clay vase"
