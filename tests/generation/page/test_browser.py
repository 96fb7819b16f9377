"""Pages in a real browser: trying out the API, the search, the gallery, on the web process as deployed."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from generation.models import Favourite, Image, Job
from tests.acceptance import browser
from tests.acceptance.browser import Visitor
from tests.factories import (
    make_embedding,
    make_image,
    make_job,
    make_key,
    make_release,
    make_user,
    make_variant,
    make_variant_image,
)
from tests.web import Web, eventually

pytestmark = browser.MARKS


PASSWORD = "a good password"
STARTER = Path(__file__).resolve().parents[3] / "generation" / "starter" / "teacher"


@pytest.fixture
def visitor(
    request: pytest.FixtureRequest, web: Web, monkeypatch: pytest.MonkeyPatch, settings
) -> Iterator[Visitor]:
    """A browser window with the options of the test's parameter."""
    settings.MEDIA_ROOT = web.log.parent / "media"
    make_release()
    for text in ("a blue bowl", "a red clay vase", "a red glass vase"):
        variant = make_variant(text=text)
        make_embedding(variant=variant)
        make_variant_image(variant=variant)
    with browser.visiting(web.url, monkeypatch, **getattr(request, "param", {})) as found:
        yield found


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


def test_enter_selects_the_first_prompt_that_the_search_found(visitor: Visitor):
    make_user(username="admin", password="a good password")
    visitor.log_in("a good password")
    page = visitor.page
    page.get_by_label("Prompt", exact=True).fill("red vase")
    page.locator(".variant.own").wait_for()
    page.get_by_label("Prompt", exact=True).press("Enter")
    page.locator("#open .card").wait_for()
    eventually(Job.objects.exists)
    assert Job.objects.get().variant.text == "a red clay vase"


def test_unknown_words_are_shown_while_a_text_is_typed(visitor: Visitor):
    make_release(name="starter", kind="teacher", has_encoder=True, path=str(STARTER))
    make_user(username="admin", password=PASSWORD)
    visitor.log_in(PASSWORD)
    page = visitor.page
    warning = page.locator("#create #unknown-words")
    warning.evaluate("region => { region.isKept = true }")
    page.get_by_label("Prompt", exact=True).press_sequentially("a red elephant")
    page.get_by_text("does not know “elephant”").wait_for()
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 844})
        assert visitor.overflow() <= 0
        assert Axe().run(page).response["violations"] == []
    page.get_by_label("Prompt", exact=True).fill("a red va")
    expect(warning).to_be_empty(timeout=browser.SECONDS * 1000)
    assert warning.evaluate("region => region.isKept")  # a replaced region would not be announced


@pytest.fixture
def pictures() -> list[Image]:
    """Images of a job of three and a job of one, in the order of the gallery."""
    user = make_user(username="admin", password=PASSWORD, is_superuser=True)
    single = make_job(owner=user, status="succeeded", seed=7)
    three = make_job(owner=user, status="succeeded", n=3, seed=41)
    made = [make_image(job=three, index=index, color=(0, index, 0)) for index in range(3)]
    return [*made, make_image(job=single)]


def test_pictures_are_browsed_and_marked_by_keyboard(visitor: Visitor, pictures):
    visitor.log_in(PASSWORD)
    page, keys = visitor.page, visitor.page.keyboard
    page.goto("/gallery")
    tiles = page.locator(".tile > a")
    tiles.nth(1).focus()
    keys.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".facts")).to_contain_text("picture 2 of 3")
    for key, seed in (("ArrowRight", 43), ("ArrowRight", 7), ("ArrowLeft", 43)):
        keys.press(key)
        expect(dialog.locator(".facts dd").first).to_have_text(str(seed))
    star = dialog.get_by_role("button", name="Favourite")
    star.focus()
    keys.press("Enter")
    expect(star).to_have_attribute("aria-pressed", "true")
    expect(star).to_be_focused()
    keys.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(".tile .star button").nth(2)).to_have_attribute("aria-pressed", "true")
    assert Favourite.objects.get().image == pictures[2]
    assert page.url.endswith("/gallery")


@pytest.mark.parametrize("visitor", [{}, {"java_script_enabled": False}], indirect=True)
def test_several_pictures_are_chosen_saved_and_deleted(visitor: Visitor, pictures):
    visitor.log_in(PASSWORD)
    page = visitor.page
    page.goto("/gallery")
    expect(page.get_by_role("button", name="Download as zip")).to_be_hidden()
    for number in (0, 3):
        page.locator(".tile").nth(number).hover()
        page.locator("[name=image]").nth(number).check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len(archive.namelist()) == 2
    page.get_by_role("button", name="Delete …").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Delete 2 pictures?")
    page.get_by_role("button", name="Delete all 2").click()
    expect(page.locator(".notice")).to_have_text("2 pictures were deleted.")
    assert set(Image.objects.all()) == set(pictures[1:3])


def test_all_shown_pictures_are_chosen_at_once(visitor: Visitor, pictures):
    visitor.log_in(PASSWORD)
    page = visitor.page
    page.goto("/gallery")
    page.locator(".tile").first.hover()
    page.locator("[name=image]").first.check()
    page.get_by_role("button", name="Select all shown").click()
    expect(page.locator(".chosen .count")).to_have_text("4 pictures chosen")


WINDOWS = [
    {"color_scheme": scheme, "viewport": {"width": width, "height": 844}, "bypass_csp": True}
    for scheme in ("light", "dark")
    for width in (1440, 390)
]


@pytest.mark.parametrize("visitor", WINDOWS, indirect=True)
def test_the_pages_are_accessible_and_fit_the_window(visitor: Visitor, pictures):
    page = visitor.page

    def look(where: str) -> None:
        found = Axe().run(page)
        assert found.violations_count == 0, (where, found.generate_report())
        assert visitor.overflow() == 0, where

    page.goto("/")
    look("login")
    visitor.log_in(PASSWORD)
    look("home")
    page.get_by_label("Prompt", exact=True).fill("red galss vase")
    page.get_by_text("Did you mean").wait_for()
    look("search")
    page.goto("/gallery")
    look("gallery")
    page.locator(".tile > a").first.click()
    page.get_by_text("Share", exact=True).click()
    link = page.locator("#share-link").inner_text()
    look("picture in the gallery")
    page.goto(f"/pictures/{pictures[0].id}")
    look("picture")
    page.goto(f"/jobs/{pictures[0].job_id}")
    page.get_by_text("The same over the API").click()
    look("job")
    page.goto("/gallery")
    page.locator("[name=image]").first.check(force=True)
    look("choice")
    page.get_by_role("button", name="Delete …").click()
    look("deletion")
    page.goto("/gallery")
    for number in range(2):
        page.locator("[name=image]").nth(number).check(force=True)
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("2 pictures side by side")
    assert (
        page.locator(".compared img").nth(1).bounding_box()["y"]
        == (page.locator(".compared img").first.bounding_box()["y"])
    )
    look("comparison")
    page.goto(link)
    look("shared")
