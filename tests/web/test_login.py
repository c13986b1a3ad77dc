"""People who log in, and those who may not."""

from __future__ import annotations

from conftest import Complaints
from lab import Lab
from playwright.sync_api import BrowserContext, Page, expect


def refusals(complaints: Complaints) -> None:
    """Chromium itself tells of answers that refuse; nothing else may be there."""
    complaints[:] = [text for text in complaints if "the server responded with a status of 401" not in text]


def enter(page: Page, token: str) -> None:
    """Logs in."""
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()


def test_a_token_opens_the_page_that_was_asked_for_until_somebody_logs_out(
    page: Page, context: BrowserContext, secure_lab: Lab, complaints: Complaints
) -> None:
    """No script sees the token, and no address has it."""
    page.goto(f"{secure_lab.url}/?from=here")
    enter(page, "ty1.nonsense")
    expect(page.get_by_role("alert")).to_be_visible()
    enter(page, secure_lab.token)
    expect(page.get_by_role("heading", name="Cluster")).to_be_visible()
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    expect(page.get_by_text("admin", exact=True)).to_be_visible()
    assert page.url.endswith("/?from=here")
    assert page.evaluate("document.cookie") == ""
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (
        True,
        True,
        "Strict",
    )
    # It is still known who that is.
    page.reload()
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert context.cookies() == []
    refusals(complaints)


def test_whose_token_is_revoked_is_asked_to_log_in_again(page: Page, secure_lab: Lab, complaints: Complaints) -> None:
    """In the words of the scheduler."""
    wish = {"user": "ada", "role": "USER"}
    made = secure_lab.call("AccessService/CreateToken", wish)
    page.goto(secure_lab.url)
    enter(page, made["token"])
    expect(page.get_by_text("ada", exact=True)).to_be_visible()
    secure_lab.call("AccessService/RevokeToken", {"id": made["info"]["id"]})
    expect(page.get_by_label("Token")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("status").first).to_contain_text("revoked")
    enter(page, secure_lab.token)
    expect(page.get_by_role("heading", name="Cluster")).to_be_visible()
    refusals(complaints)
