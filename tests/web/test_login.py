"""People who log in, and those who may not."""

from __future__ import annotations

from conftest import Complaints
from lab import Lab
from playwright.sync_api import BrowserContext, Page, expect

#: What a scheduler answers to an address with too many wrong tokens.
_TOO_MANY = {
    "code": "resource_exhausted",
    "message": "too many calls with a wrong token came from this address; wait 63 s",
    "details": [{"type": "google.rpc.ErrorInfo", "debug": {"reason": "TOO_MANY_WRONG_TOKENS"}}],
}


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


def test_who_logs_out_in_one_tab_is_out_in_all_and_in_again_in_all(
    page: Page, context: BrowserContext, secure_lab: Lab, complaints: Complaints
) -> None:
    """Each tab keeps its address."""
    page.goto(f"{secure_lab.url}/jobs?user=ada")
    enter(page, secure_lab.token)
    expect(page.get_by_role("heading", name="Queue")).to_be_visible()
    other = context.new_page()
    other.goto(f"{secure_lab.url}/data")
    expect(other.get_by_role("heading", name="Data", exact=True)).to_be_visible()
    other.get_by_role("button", name="Log out").click()
    expect(other.get_by_label("Token")).to_be_visible()
    expect(page.get_by_label("Token")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Your session has ended")
    enter(other, secure_lab.token)
    expect(page.get_by_role("heading", name="Queue")).to_be_visible()
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    assert page.url.endswith("/jobs?user=ada")
    refusals(complaints)


def test_a_session_that_is_over_asks_for_the_token_and_keeps_the_address(
    page: Page, context: BrowserContext, secure_lab: Lab, complaints: Complaints
) -> None:
    """As when the browser drops its cookie after its days, or the token's own are over."""
    page.goto(f"{secure_lab.url}/jobs?state=failed")
    # What the queue asks a moment later must not be refused before the click is.
    with page.expect_response("**/ListUserShares"):
        enter(page, secure_lab.token)
    expect(page.get_by_role("heading", name="Queue")).to_be_visible()
    context.clear_cookies()
    page.get_by_role("link", name="Data").click()
    expect(page.get_by_label("Token")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Your session has ended")
    page.go_back()
    enter(page, secure_lab.token)
    expect(page.get_by_role("heading", name="Queue")).to_be_visible()
    assert page.url.endswith("/jobs?state=failed")
    made = secure_lab.call("AccessService/CreateToken", {"user": "eve", "role": "USER"})
    page.get_by_role("button", name="Log out").click()
    enter(page, made["token"])
    expect(page.get_by_text("eve", exact=True)).to_be_visible()
    secure_lab.call("AccessService/RevokeToken", {"id": made["info"]["id"]})
    page.reload()
    expect(page.get_by_role("status")).to_contain_text("Your session has ended: ")
    refusals(complaints)


def test_what_was_typed_is_there_again_for_whom_it_is_of_until_it_is_sent(
    page: Page, context: BrowserContext, secure_lab: Lab, complaints: Complaints
) -> None:
    """A session that ends takes no form with it; another user finds an empty one."""
    page.goto(f"{secure_lab.url}/new")
    enter(page, secure_lab.token)
    page.get_by_label("name", exact=True).fill("half done")
    page.get_by_label("epochs", exact=True).fill("77")
    context.clear_cookies()
    page.get_by_label("data", exact=True).fill("no-such-data")
    expect(page.get_by_label("Token")).to_be_visible()
    made = secure_lab.call("AccessService/CreateToken", {"user": "zoe", "role": "USER"})
    enter(page, made["token"])
    expect(page.get_by_text("zoe", exact=True).first).to_be_visible()
    expect(page.get_by_label("name", exact=True)).to_have_value("")
    page.get_by_role("button", name="Log out").click()
    enter(page, secure_lab.token)
    expect(page.get_by_label("name", exact=True)).to_have_value("half done")
    expect(page.get_by_label("epochs", exact=True)).to_have_value("77")
    expect(page.get_by_label("data", exact=True)).to_have_value("no-such-data")
    page.get_by_role("button", name="Begin anew").click()
    expect(page.get_by_label("epochs", exact=True)).to_have_value("")
    page.reload()
    expect(page.get_by_label("epochs", exact=True)).to_have_value("")
    complaints[:] = [text for text in complaints if "status of 40" not in text]


def test_a_viewer_is_offered_nothing_that_only_others_may(page: Page, secure_lab: Lab, complaints: Complaints) -> None:
    """And whoever comes to the form of a new job is told."""
    made = secure_lab.call("AccessService/CreateToken", {"user": "vic", "role": "VIEWER"})
    page.goto(f"{secure_lab.url}/new")
    enter(page, made["token"])
    expect(page.get_by_role("heading", name="New job")).to_be_visible()
    expect(page.get_by_text("A viewer's token submits no jobs.")).to_be_visible()
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Cluster", "Queue", "Compare", "Data"])
    refusals(complaints)


def test_who_has_tried_too_many_tokens_sees_how_long_to_wait_beside_the_form(
    page: Page, secure_lab: Lab, complaints: Complaints
) -> None:
    """The right token is taken all the same."""
    page.route(
        "**/trainyard.v1.AccessService/WhoAmI",
        lambda route: route.fulfill(status=429, json=_TOO_MANY),
        times=1,
    )
    page.goto(f"{secure_lab.url}/new")
    expect(page.get_by_role("status")).to_contain_text("wait 63 s")
    page.route("**/session", lambda route: route.fulfill(status=429, json=_TOO_MANY), times=1)
    enter(page, "ty1.nonsense")
    expect(page.get_by_role("alert")).to_contain_text("wait 63 s")
    enter(page, secure_lab.token)
    expect(page.get_by_role("heading", name="New job")).to_be_visible()
    complaints[:] = [text for text in complaints if "status of 429" not in text]
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
