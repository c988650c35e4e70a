"""Open pages in headless Chromium, as wide as a phone or a screen, by day or by night, and hear what they say."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

# What sticks out of the page to the right, but for what is scrolled in a frame of its own.
WIDE = """() => Array.from(document.querySelectorAll("body, body *")).filter(one =>
    one.getBoundingClientRect().right > document.documentElement.clientWidth + 1 &&
    !one.parentElement.closest(".scroll, figure, pre, svg, details:not([open])")
  ).map(one => one.tagName + " " + one.textContent.trim().slice(0, 40))"""
SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; skips the test where there is no Chromium.

    Use it as a fixture of a module at most: while it is open, asyncio takes this thread for one with a loop.
    """
    path = next((path for name in NAMES if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page as it stands in a browser.

    Attributes:
        page: to ask and to act on.
        errors: what it threw, wrote to the console as an error, or could not load.
        asked: addresses of what it loaded, itself left out.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def show(self, width: int, dark: bool) -> None:
        """Show it as wide as a phone or a screen, by day or by night."""
        self.page.set_viewport_size({"width": width, "height": 844 if width < 600 else 900})
        self.page.emulate_media(color_scheme="dark" if dark else "light")

    def run(self, script: str) -> Any:
        """The value of an expression or function of JavaScript."""
        return self.page.evaluate(script)

    @property
    def wide(self) -> list[str]:
        """What is broader than the page."""
        found = list(self.run(WIDE))
        sideways = self.run(SIDEWAYS)
        return [*found, *([f"the page scrolls sideways by {sideways} px"] if sideways > 0 else [])]


@contextmanager
def opened(browser: Browser, path: Path, width: int = 1280, dark: bool = False) -> Iterator[Opened]:
    """A page of a file, in a window of a width."""
    context = browser.new_context()
    page = context.new_page()
    found = Opened(page)
    found.show(width, dark)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("console", lambda said: found.errors.append(said.text) if said.type in ("error", "warning") else None)
    page.on("requestfailed", lambda request: found.errors.append(f"not loaded: {request.url}"))
    page.on("request", lambda request: found.asked.append(request.url))
    page.goto(path.as_uri(), wait_until="load")
    found.asked = [url for url in found.asked if url != path.as_uri() and not url.startswith("data:")]
    yield found
    context.close()
