"""`make screenshots`: take the screenshots of the page in docs/page/ again, with the starter."""

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests.acceptance.browser import Visitor, admin_password, chromium, installed
from tests.acceptance.stack import ROOT, Stack, wait_for

FOLDER = ROOT / "docs" / "page"
WINDOW = {"width": 1280, "height": 840}
QUALITY = 82
MAX_BYTES = 150_000
# (prompt variant, images, seed, model), the oldest first
SHOWN = [
    ("black-glass-bottle-slab", 1, 3, "student"), ("orange-clay-vase-table", 1, 5, "teacher"),
    ("blue-glass-bowl-cloth", 2, 11, "teacher"), ("green-plastic-mug-slab", 1, 2, "student"),
    ("white-clay-bowl-table", 1, 8, "teacher"), ("purple-metal-mug-cloth", 1, 4, "student"),
    ("yellow-plastic-cone-slab", 1, 1, "teacher"), ("red-glass-ball-slab", 1, 6, "student"),
]  # fmt: skip


def main() -> None:
    if installed() is None:
        raise SystemExit(
            "Chromium was not found. Install it (apt install chromium), or set CHROME to its path."
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "home", workers=1, env={})
        try:
            take(stack)
        finally:
            stack.stop()


def take(stack: Stack) -> None:
    wait_for(lambda: has_embeddings(stack), "the catalogue is encoded for the teacher")
    for variant, n, seed, model in SHOWN:
        job = stack.submit(variant=variant, n=n, seed=seed, model=model)
        stack.ended([job["id"]])
    password = admin_password(stack)
    with chromium() as browser:
        desktop = Visitor(browser, stack.run["base_url"], viewport=WINDOW)
        desktop.log_in(password)
        page = desktop.page
        page.get_by_label("Prompt", exact=True).fill("red vase")
        page.get_by_text("a red glass vase on a wooden table").click()
        page.get_by_label("Pictures", exact=True).fill("3")
        page.get_by_text("Size, format, model").click()
        page.get_by_label("Model").select_option("teacher")
        page.get_by_text("Size, format, model").click()
        page.get_by_role("button", name="Generate").click()
        page.locator(".forming img[src^=data]").nth(2).wait_for()
        page.wait_for_timeout(700)
        save_screenshot(page, "forming")
        desktop.loaded(".card figure:not(.forming) img")
        desktop.loaded(".tile img")
        save_screenshot(page, "desktop")
        account = {"storage_state": desktop.context.storage_state()}
        dark = Visitor(
            browser, stack.run["base_url"], color_scheme="dark", viewport=WINDOW, **account
        )
        dark.page.goto("/gallery")
        dark.loaded(".tile img")
        save_screenshot(dark.page, "dark")
        phone = Visitor(
            browser, stack.run["base_url"], viewport={"width": 360, "height": 740}, device_scale_factor=2,
            is_mobile=True, has_touch=True, **account,
        )  # fmt: skip
        phone.page.goto("/")
        phone.page.get_by_text("a black clay bowl on a marble slab").tap()
        phone.page.get_by_role("button", name="Generate").tap()
        phone.loaded(".card figure:not(.forming) img")
        phone.page.locator(".card").evaluate("card => card.scrollIntoView()")
        save_screenshot(phone.page, "phone")


def has_embeddings(stack: Stack) -> bool:
    """Return whether the starter's catalogue has embeddings of both encoders."""
    counts = stack.query(
        "SELECT count(*) AS n FROM generation_embedding WHERE error = '' GROUP BY encoder_fingerprint"
    )
    return bool(counts) and all(row["n"] >= 256 for row in counts)


def save_screenshot(page: Page, name: str) -> None:
    content = io.BytesIO()
    Image.open(io.BytesIO(page.screenshot())).save(content, "webp", quality=QUALITY, method=6)
    size = content.tell()
    if size > MAX_BYTES:
        raise SystemExit(f"{name}.webp has {size} bytes; at most {MAX_BYTES} are allowed.")
    (FOLDER / f"{name}.webp").write_bytes(content.getvalue())
    print(f"{FOLDER / name}.webp: {size} bytes", flush=True)


if __name__ == "__main__":
    main()
