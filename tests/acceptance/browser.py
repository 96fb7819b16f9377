"""A headless Chromium with one visitor of the page at /."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.acceptance.stack import Stack

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# The browser itself sends no requests, only the page does.
ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SECONDS = 60.0


def installed() -> str | None:
    """Return the path of the browser: CHROME, or the first that is found by name."""
    return os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)


# Marks of test modules that open pages in a browser, from a web process that serves the test's database.
MARKS = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_server", "deployed_hashers"),
    pytest.mark.acceptance,
    pytest.mark.slow,
    pytest.mark.skipif(installed() is None, reason="no Chromium is installed"),
]


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed(), args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def visiting(base_url: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator["Visitor"]:
    """Open a window for a test that also reads the database. Afterwards assert that no error was logged."""
    # Playwright runs an event loop in this thread, where Django refuses queries otherwise.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    with chromium() as started:
        visitor = Visitor(started, base_url, **options)
        yield visitor
        assert visitor.errors == []
        visitor.close()


def admin_password(stack: Stack) -> str:
    """Return the password that the launcher printed."""
    printed = (stack.home / "launcher.log").read_text()
    found = re.search(r"user admin, password (\S+)", printed)
    assert found, printed[-2000:]
    return found[1]


class Visitor:
    """A window with its own session. requests: requested URLs; errors: of scripts, and the console's with warnings."""

    def __init__(self, browser: Browser, base_url: str, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(base_url=base_url, **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.base_url = base_url
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda message: (
                message.type in ("error", "warning") and self.errors.append(message.text)
            ),
        )

    def log_in(self, password: str, *, user: str = "admin") -> None:
        self.page.goto("/")
        self.page.get_by_label("User name").fill(user)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()
        self.page.get_by_role("button", name="Generate").wait_for()

    def foreign_requests(self) -> list[str]:
        """Return the requested URLs of other hosts."""
        own = urlsplit(self.base_url).netloc
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != own
        ]

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return self.page.evaluate(
            "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def loaded(self, selector: str) -> list[int]:
        """Wait until these pictures are loaded and return the widths of their files in pixels."""
        pictures = self.page.locator(selector)
        pictures.first.wait_for()
        return [
            pictures.nth(number).evaluate(
                "async (img) => { img.loading = 'eager'; await img.decode(); return img.naturalWidth }"
            )
            for number in range(pictures.count())
        ]

    def close(self) -> None:
        self.context.close()
