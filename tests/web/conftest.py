"""A browser and labs that several tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import MACHINES, Lab
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright

#: Of what Chromium would do by itself: nothing. As root it has no sandbox.
_FLAGS = [
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

# Other tests compute beside these.
expect.set_options(timeout=30_000)


def launched(playwright: Playwright) -> Browser:
    """A headless Chromium: the distribution's, or Playwright's own."""
    program = os.environ.get("TRAINYARD_CHROMIUM") or shutil.which("chromium")
    flags = [*_FLAGS, "--no-sandbox"] if os.geteuid() == 0 else _FLAGS
    return playwright.chromium.launch(executable_path=program, args=flags)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One for all tests."""
    with sync_playwright() as playwright:
        browser = launched(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three machines with eight GPUs of three models, where nobody is asked who they are."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.start_scheduler()
        for name, gpus in MACHINES.items():
            lab.start_agent(name, gpus, cpu_slots=1 if name == "lab-2" else 0)
        yield lab
    finally:
        lab.stop()


@pytest.fixture(scope="session")
def secure_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A scheduler with encryption and tokens, without machines."""
    lab = Lab(tmp_path_factory.mktemp("secure"), secure=True)
    try:
        lab.start_scheduler()
        yield lab
    finally:
        lab.stop()


class Complaints(list[str]):
    """What a page's console and its errors say."""


@pytest.fixture
def complaints() -> Complaints:
    """Of this test's page; empty at its end, but for what the test expects and removes."""
    return Complaints()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that remembers nothing."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, ignore_https_errors=True)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, complaints: Complaints) -> Iterator[Page]:
    """A page that has nothing to complain of."""
    page = context.new_page()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    yield page
    assert complaints == []


@pytest.fixture
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where pictures of pages go: for people, so where somebody says, and else nowhere in particular."""
    folder = Path(os.environ.get("TRAINYARD_PICTURES") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / str(request.node.name)
