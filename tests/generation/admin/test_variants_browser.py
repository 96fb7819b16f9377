"""The prompt catalogue's admin in a browser: tags as chips with suggestions, undo from the message, narrow windows."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from generation.models import PromptVariant
from tests.acceptance import browser
from tests.acceptance.browser import Visitor
from tests.factories import cover, make_embedding, make_release, make_user, make_variant
from tests.web import Web, eventually

pytestmark = browser.MARKS
STARTER = Path(__file__).resolve().parents[3] / "generation" / "starter" / "teacher"
LIST = "/admin/generation/promptvariant/"


@pytest.fixture
def visitor(web: Web, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visitor]:
    student = make_release()
    for slug, tags in (("vase", ["glass", "red"]), ("mug", ["clay"])):
        make_embedding(variant=make_variant(slug=slug, tags=tags))
    cover(student, {"vase": "vase"})
    make_user(username="admin", password="a good password", is_superuser=True, is_staff=True)
    with browser.visiting(web.url, monkeypatch) as found:
        found.log_in("a good password")
        yield found


def test_tags_are_chips_with_suggestions(visitor: Visitor):
    page = visitor.page
    variant = PromptVariant.objects.get(slug="vase")
    page.goto(f"{LIST}{variant.pk}/change/")
    options = page.locator("datalist option")
    assert [options.nth(n).get_attribute("value") for n in range(options.count())] == [
        "clay",
        "glass",
        "red",
    ]
    page.get_by_role("button", name="Remove glass").click()
    page.get_by_label("Add to Tags").fill("clay")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Remove clay").wait_for()
    page.get_by_role("button", name="Save", exact=True).click()
    eventually(lambda: PromptVariant.objects.get(slug="vase").tags == ["red", "clay"])


def test_archiving_is_undone_by_one_click(visitor: Visitor):
    page = visitor.page
    page.goto(LIST)
    page.locator("input.action-select").first.check()
    page.locator("select[name=action]").select_option("archive")
    page.locator("#changelist-form").evaluate("form => form.submit()")
    page.get_by_role("button", name="Undo").wait_for()
    assert PromptVariant.objects.filter(status="archived").count() == 1
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("Undone for 1 prompt variant.").wait_for()
    assert not PromptVariant.objects.filter(status="archived").exists()


def test_unknown_words_are_shown_while_a_prompt_is_typed(visitor: Visitor):
    make_release(name="starter", kind="teacher", has_encoder=True, path=str(STARTER))
    page = visitor.page
    page.goto(f"{LIST}add/")
    warning = page.locator("#unknown-words")
    text = page.locator("#id_text")
    text.press_sequentially("a red eleph")
    page.get_by_text("does not know “eleph”").wait_for()
    text.fill("a red va")
    expect(warning).to_be_empty(timeout=browser.SECONDS * 1000)
    expect(warning).to_have_attribute("aria-live", "polite")


@pytest.mark.parametrize("width", [1440, 390])
def test_list_table_and_page_fit_the_window(visitor: Visitor, width: int):
    page = visitor.page
    page.set_viewport_size({"width": width, "height": 844})
    for path in (LIST, f"{LIST}by-tags/", f"{LIST}{PromptVariant.objects.all()[0].pk}/change/"):
        page.goto(path)
        assert visitor.overflow() <= 0, path
