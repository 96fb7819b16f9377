"""The page at / in a real browser: with and without JavaScript, by keyboard, on a phone."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.acceptance import browser as browsers
from tests.acceptance.browser import Visitor, admin_password
from tests.acceptance.stack import Stack

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        browsers.installed() is None,
        reason="Chromium was not found. Install it (apt install chromium), or set CHROME to its path.",
    ),
]

PICTURES = ".card figure:not(.forming) img"
Visit = Callable[..., Visitor]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture
def visit(stack: Stack, variants: list[str], browser: Browser) -> Iterator[Visit]:
    """Opens windows. At the end asserts that they sent no foreign requests and logged no errors, and closes them."""
    visitors: list[Visitor] = []

    def visit(**options: Any) -> Visitor:
        visitors.append(Visitor(browser, stack.run["base_url"], **options))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        assert visitor.foreign_requests() == []
        assert visitor.errors == []
        visitor.close()


def generate(visitor: Visitor, prompt: str = "", **options: str) -> None:
    """Fill in the form and submit it. prompt: words that match exactly one variant; options: by label."""
    page = visitor.page
    if prompt:
        page.get_by_label("Prompt", exact=True).fill(prompt)
        choice = page.locator(".variant", has_not_text="My own text")
        expect(choice).to_have_count(1)
        choice.click()
    if not page.get_by_label("Model").is_visible():
        page.get_by_text("Size, format, model").click()
    for label, value in options.items():
        field = page.get_by_label(label, exact=True)
        if field.evaluate("field => field.localName") == "select":
            field.select_option(value)
        else:
            field.fill(value)
    page.get_by_role("button", name="Generate").click()


@pytest.mark.slow
def test_an_image_is_requested_previewed_and_found_in_the_gallery(stack: Stack, visit: Visit):
    visitor = visit()
    visitor.log_in(admin_password(stack))
    page = visitor.page

    generate(visitor, "red glass vase", Model="teacher", Pictures="2")
    card = page.locator(".card").first
    expect(card).to_contain_text("a red glass vase on a wooden table")
    preview = card.locator(".forming img[src^='data:image/webp']")
    preview.first.wait_for()
    assert page.locator(PICTURES).count() == 0  # the preview comes before the picture
    expect(card.get_by_role("progressbar")).to_be_visible()

    assert visitor.loaded(PICTURES) == [128, 128]
    expect(page.locator("#announced")).to_have_text(
        "2 pictures are ready: a red glass vase on a wooden table"
    )
    expect(card).to_contain_text("starter-teacher-2")
    assert not card.locator(".forming").count()
    seed = card.locator("figcaption span").first.inner_text()

    page.reload()
    tile = page.locator(".tile img").first
    assert visitor.loaded(".tile img")[:2] == [128, 128]
    assert tile.get_attribute("alt") == f"a red glass vase on a wooden table, {seed}"
    tile.click()
    picture = page.get_by_role("dialog")
    expect(picture.get_by_role("heading")).to_have_text("a red glass vase on a wooden table")
    expect(picture.locator(".facts")).to_contain_text("starter-teacher-2 (teacher), 50 steps")
    with page.expect_download() as download:
        picture.get_by_role("link", name="Download").click()
    number = seed.removeprefix("seed ")
    assert download.value.suggested_filename == f"red-glass-vase-table-{number}.webp"


@pytest.mark.slow
def test_an_image_of_a_one_step_student_is_shown_and_its_repeat_reused(stack: Stack, visit: Visit):
    visitor = visit()
    visitor.log_in(admin_password(stack))
    generate(visitor, "blue glass bowl", Model="student", Seed="3")
    assert visitor.loaded(PICTURES) == [128]
    generate(visitor, Seed="3")  # stored by now
    expect(visitor.page.locator(".card").first).to_contain_text("reused from an earlier job")
    assert visitor.page.locator(".card").count() == 2


@pytest.mark.slow
def test_the_page_is_usable_with_the_keyboard_alone(stack: Stack, visit: Visit):
    visitor = visit()
    page, keys = visitor.page, visitor.page.keyboard
    page.goto("/")
    expect(page.get_by_label("User name")).to_be_focused()
    keys.type("admin")
    keys.press("Tab")
    keys.type(admin_password(stack))
    keys.press("Enter")
    page.get_by_role("button", name="Generate").wait_for()

    keys.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    keys.press("Enter")
    keys.press("Tab")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    keys.type("green ball")
    # The first prompt that the search finds is selected; the arrow leads to it.
    expect(page.locator("#variant-of-own-words")).not_to_be_checked()
    expect(page.locator(".variants input:checked")).to_have_value(re.compile("^green-"))
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    chosen = page.locator(".variants input:focus")
    expect(chosen).to_be_checked()
    slug = chosen.get_attribute("value")
    assert slug and slug.startswith("green-")
    outline = "field => getComputedStyle(field.closest('label')).outlineStyle"
    assert chosen.evaluate(outline) == "solid"
    keys.press("Tab")
    expect(page.get_by_label("Pictures", exact=True)).to_be_focused()
    keys.press("Enter")
    assert visitor.loaded(PICTURES) == [128]
    expect(page.locator(f"#variant-{slug}")).to_be_checked()  # the selection is kept


@pytest.mark.slow
def test_tags_narrow_the_list_and_keep_the_focus(stack: Stack, visit: Visit):
    visitor = visit()
    visitor.log_in(admin_password(stack))
    page = visitor.page
    for tag, left in (("vase", 32), ("glass", 8), ("red", 1)):
        box = page.get_by_role("checkbox", name=tag, exact=True)
        box.focus()
        page.keyboard.press("Space")
        expect(page.locator(".variant")).to_have_count(left)
        expect(box).to_be_checked()
        expect(box).to_be_focused()


@pytest.mark.slow
def test_an_unknown_text_is_answered_with_the_nearest_prompts(stack: Stack, visit: Visit):
    visitor = visit()
    visitor.log_in(admin_password(stack))
    page = visitor.page
    page.get_by_label("Prompt", exact=True).fill("a purple giraffe")
    page.get_by_label("Pictures", exact=True).fill("2")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#error-prompt")).to_contain_text("The most similar is")
    expect(page.locator(".variant.near")).to_have_count(3)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a purple giraffe")
    expect(page.locator(".variant.near input").first).to_be_focused()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    assert visitor.loaded(PICTURES) == [128, 128]
    assert page.locator(".error").count() == 0
    # Browsers log every answer with that status.
    visitor.errors = [message for message in visitor.errors if "422" not in message]


@pytest.mark.slow
def test_a_job_is_canceled(stack: Stack, visit: Visit):
    visitor = visit()
    visitor.log_in(admin_password(stack))
    generate(visitor, "red glass vase", Model="slow", Pictures="5")
    card = visitor.page.locator(".card").first
    expect(card).to_contain_text("Generating")
    card.get_by_role("button", name="Cancel").click()
    expect(card).to_contain_text("Canceled")
    assert card.locator(".forming").count() == 0


@pytest.mark.slow
def test_the_page_polls_when_events_are_unavailable(stack: Stack, visit: Visit):
    visitor = visit()
    visitor.log_in(admin_password(stack))
    visitor.page.route("**/events", lambda route: route.abort())
    generate(visitor, "white glass vase", Model="teacher")
    assert visitor.loaded(PICTURES) == [128]
    visitor.errors = [message for message in visitor.errors if "ERR_FAILED" not in message]


@pytest.mark.parametrize("width", [360, 320])
@pytest.mark.slow
def test_the_page_does_not_scroll_sideways_on_a_phone(stack: Stack, visit: Visit, width: int):
    visitor = visit(
        viewport={"width": width, "height": 740},
        is_mobile=True,
        has_touch=True,
        color_scheme="dark",
    )
    visitor.page.goto("/")
    assert visitor.overflow() == 0
    visitor.log_in(admin_password(stack))
    assert visitor.overflow() == 0
    generate(visitor, "red glass vase", Model="student", Pictures="2")
    assert visitor.loaded(PICTURES) == [128, 128]
    expect(visitor.page.locator(PICTURES).first).to_be_in_viewport()
    assert visitor.overflow() == 0
    visitor.page.locator(".card h2 a").first.click()
    visitor.page.locator(".facts").wait_for()
    assert visitor.overflow() == 0
    visitor.page.goto("/gallery")
    assert visitor.overflow() == 0


@pytest.mark.slow
def test_the_page_works_without_javascript(stack: Stack, visit: Visit):
    visitor = visit(java_script_enabled=False)
    visitor.log_in(admin_password(stack))
    page = visitor.page
    page.get_by_label("Prompt", exact=True).fill("yellow metal")
    page.get_by_label("Pictures", exact=True).fill("2")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_label("Pictures", exact=True)).to_have_value("2")
    page.get_by_role("radio", name="a yellow metal vase on a wooden table").check()
    page.get_by_text("Size, format, model").click()
    page.get_by_label("Model").select_option("teacher")
    with page.expect_response(lambda answer: "/v1/images/" in answer.url and answer.ok):
        page.get_by_role("button", name="Generate").click()
    expect(page.locator(PICTURES)).to_have_count(2)  # the page has reloaded itself
    page.get_by_role("button", name="Again, same seed").click()
    expect(page.locator(".facts")).to_contain_text("reused from an earlier job")
    page.get_by_text("Delete all", exact=True).click()
    page.get_by_role("button", name="Delete them").click()
    expect(page.locator(".notice")).to_have_text("2 pictures were deleted.")
    expect(page.get_by_role("heading", level=1)).to_have_text("Your pictures")
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("button", name="Log in").wait_for()
