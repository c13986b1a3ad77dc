"""The queue: what waits, what runs, what is over."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Complaints
from lab import Lab, until
from playwright.sync_api import Browser, Locator, Page, expect
from test_cluster import axe
from test_login import enter, refusals

#: More than any GPU of the lab has, in MiB.
_TOO_MUCH = 90_000


def part(page: Page, name: str) -> Locator:
    """The rows of a part of the page."""
    return page.get_by_role("region", name=re.compile(f"^{name}"))


def row(page: Page, name: str, of: str) -> Locator:
    """The row of a job."""
    return part(page, of).get_by_role("row").filter(has_text=name)


def waiting(lab: Lab, name: str, user: str = "ada") -> str:
    """A job of somebody that no GPU is large enough for; its id."""
    train = {"model": "yolov8s", "data": str(lab.data()), "epochs": 40}
    spec = {"name": name, "train": train, "resources": {"minVramMib": _TOO_MUCH}}
    headers = {"content-type": "application/json", "trainyard-user": user}
    url = f"{lab.url}/trainyard.v1.JobService/SubmitJob"
    with urllib.request.urlopen(
        urllib.request.Request(url, json.dumps({"spec": spec}).encode(), headers),
        timeout=60,
    ) as answer:
        return str(json.load(answer)["jobId"])


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    """Jobs that a test leaves are cancelled."""
    yield
    for job in lab.call("JobService/ListJobs", {"states": ["QUEUED", "STARTING", "RUNNING"]}).get("jobs", []):
        if job.get("sweepId"):
            lab.call("JobService/CancelSweep", {"sweepId": job["sweepId"]})
        lab.call("JobService/CancelJob", {"jobId": job["id"]})


def test_a_job_is_followed_from_waiting_to_its_end(page: Page, lab: Lab) -> None:
    """Why it waits, where it runs, how far it is, and how it ended, in the scheduler's words."""
    page.goto(f"{lab.url}/jobs")
    expect(page).to_have_title("Queue · Trainyard")
    job = waiting(lab, "large <img src=x onerror=alert(1)>")
    shown = row(page, "large <img", "Waiting")
    why = lab.call("JobService/GetJob", {"jobId": job})["waitingSentence"]
    expect(shown).to_contain_text(why)
    expect(shown.get_by_role("cell").first).to_have_text("1")
    lab.call("JobService/CancelJob", {"jobId": job})
    expect(shown).to_have_count(0)
    over = row(page, "large <img", "Finished")
    expect(over.locator(".pill")).to_have_text("cancelled")
    expect(over).to_contain_text(lab.call("JobService/GetJob", {"jobId": job})["stateReason"])
    runs = lab.submit("small", gpuModels=["5070"])
    shown = row(page, "small", "Running")
    expect(shown).to_contain_text("lab-2")
    expect(shown.get_by_role("progressbar")).to_be_visible()
    expect(shown).to_contain_text("epoch 1 / 40")
    lab.call("JobService/CancelJob", {"jobId": runs})
    expect(shown).to_have_count(0)


def test_a_job_is_cancelled_only_when_that_is_confirmed_and_retried(page: Page, lab: Lab) -> None:
    """By keyboard as well."""
    job = waiting(lab, "to be cancelled")
    page.goto(f"{lab.url}/jobs")
    page.get_by_label("Cancel to be cancelled").press("Enter")
    page.get_by_role("dialog").press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert lab.call("JobService/GetJob", {"jobId": job})["state"] == "QUEUED"
    page.get_by_label("Cancel to be cancelled").click()
    dialog = page.get_by_role("dialog", name="Cancel to be cancelled?")
    assert axe(page) == []
    dialog.get_by_role("button", name="Cancel it").click()
    page.get_by_label("Retry to be cancelled").click()
    expect(row(page, "to be cancelled", "Waiting")).to_be_visible()
    assert lab.call("JobService/GetJob", {"jobId": job})["state"] == "QUEUED"


def test_times_are_the_schedulers_where_this_machines_clock_is_wrong(page: Page, lab: Lab) -> None:
    """Which is twenty minutes ahead here."""
    waiting(lab, "punctual")
    page.clock.install(time=time.time() + 1200)
    page.goto(f"{lab.url}/jobs")
    expect(row(page, "punctual", "Waiting").locator(".age")).to_have_text(re.compile(r"^\d+ s ago$"))


def test_a_row_on_a_phone_says_of_each_figure_what_it_is(page: Page, lab: Lab) -> None:
    """What is not known is left out."""
    waiting(lab, "on a phone")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{lab.url}/jobs")
    shown = row(page, "on a phone", "Waiting")
    expect(shown).to_be_visible()
    assert "\N{EN DASH}" not in shown.inner_text().split("\n")


def test_a_waiting_job_is_given_another_priority(page: Page, lab: Lab) -> None:
    """A number that is none is not taken, and who thinks better of it changes nothing."""
    job = waiting(lab, "urgent")
    page.goto(f"{lab.url}/jobs")
    page.get_by_label("Priority of urgent").click()
    dialog = page.get_by_role("dialog", name="Priority of urgent")
    assert axe(page) == []
    dialog.get_by_role("spinbutton").fill("101")
    dialog.get_by_role("button", name="Set it").click()
    expect(dialog).to_be_visible()
    dialog.get_by_role("spinbutton").fill("7")
    dialog.get_by_role("button", name="Set it").click()
    expect(row(page, "urgent", "Waiting")).to_contain_text("priority 7")
    assert lab.call("JobService/GetJob", {"jobId": job})["spec"]["priority"] == 7
    page.goto(f"{lab.url}/jobs/{job}")
    page.get_by_role("button", name="Priority").click()
    page.get_by_role("dialog").get_by_role("spinbutton").fill("9")
    page.get_by_role("button", name="Back").click()
    assert lab.call("JobService/GetJob", {"jobId": job})["spec"]["priority"] == 7


def test_who_has_had_how_much_is_shown(page: Page, lab: Lab) -> None:
    """As the scheduler counts it."""
    runs = lab.submit("has-a-gpu", gpuModels=["4090"])
    waiting(lab, "has-none", "bob")
    page.goto(f"{lab.url}/jobs")
    expect(row(page, "has-a-gpu", "Running")).to_contain_text("epoch 1 / 40")
    users = page.get_by_role("list", name="Who has how much")
    expect(users.get_by_role("button", name="bob")).to_contain_text("1 waiting")
    shares = lab.call("JobService/ListUserShares")["users"]
    own = next(share["user"] for share in shares if share.get("gpus"))
    expect(users.get_by_role("button", name=own)).to_contain_text("of late")
    bar = users.get_by_role("button", name=own).locator(".portion i")
    assert bar.evaluate("bar => bar.style.width.endsWith('%')")
    lab.call("JobService/CancelJob", {"jobId": runs})


def test_filters_are_in_the_address(page: Page, lab: Lab) -> None:
    """So that a link shows a colleague the same."""
    for name, user in [("cells-1", "ada"), ("cells-2", "bob"), ("plates", "bob")]:
        waiting(lab, name, user)
    page.goto(f"{lab.url}/jobs")
    rows = part(page, "Waiting").get_by_role("row").filter(has=page.get_by_role("checkbox"))
    expect(rows).to_have_count(3)
    page.get_by_role("button", name=re.compile("bob")).click()
    expect(rows).to_have_count(2)
    page.get_by_label("Text").fill("CELLS-")
    expect(rows).to_have_count(1)
    page.get_by_label("State").select_option("waiting")
    expect(part(page, "Finished")).to_have_count(0)
    assert page.url.endswith("/jobs?user=bob&text=CELLS-&state=waiting")
    page.reload()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("cells-2")
    page.get_by_label("User", exact=True).select_option("")
    expect(rows).to_have_count(2)


def test_several_jobs_are_chosen_and_cancelled_at_once(page: Page, lab: Lab) -> None:
    """Or compared, by a link with all of them."""
    jobs = {waiting(lab, f"chosen-{number}") for number in range(3)}
    page.goto(f"{lab.url}/jobs?text=chosen")
    for number in range(3):
        page.get_by_label(f"Choose chosen-{number}").check()
    chosen = page.get_by_role("region", name="Chosen jobs")
    expect(chosen).to_contain_text("3 chosen")
    chosen.get_by_role("button", name="Cancel 3").click()
    page.get_by_role("dialog", name="Cancel 3 jobs?").get_by_role("button", name="Cancel it").click()
    expect(part(page, "Waiting")).to_contain_text("Nothing waits.")
    states = {lab.call("JobService/GetJob", {"jobId": job})["state"] for job in jobs}
    assert states == {"CANCELLED"}
    chosen.get_by_role("button", name="Choose none").click()
    expect(chosen).to_have_count(0)


def test_a_thousand_jobs_are_listed_and_go(page: Page, lab: Lab) -> None:
    """Rows that nobody sees are not painted, and all of them leave when the sweep is cancelled."""
    train = {"model": "yolov8s", "data": str(lab.data())}
    spec = {"name": "many", "train": train, "resources": {"minVramMib": _TOO_MUCH}}
    axes = [{"parameter": "seed", "values": [str(seed) for seed in range(1000)]}]
    sweep = lab.call("JobService/SubmitSweep", {"spec": spec, "axes": axes})["sweepId"]
    page.goto(f"{lab.url}/jobs?state=waiting")
    # Roles of so many elements take Playwright seconds, in which the page cannot go on.
    rows = page.locator(".Waiting .row")
    expect(rows).to_have_count(1001)
    last = rows.last
    assert last.evaluate("row => row.firstElementChild.checkVisibility({ contentVisibilityAuto: true })") is False
    last.scroll_into_view_if_needed()
    expect(last.locator(".place")).to_have_text("1000")
    # What is not drawn anew is still the same element.
    last.evaluate("row => { row.dataset.seen = 'yes'; }")
    job = waiting(lab, "one more")
    expect(rows).to_have_count(1002)
    expect(page.locator(".Waiting [data-seen=yes]")).to_have_count(1)
    lab.call("JobService/CancelJob", {"jobId": job})
    lab.call("JobService/CancelSweep", {"sweepId": sweep})
    expect(rows).to_have_count(0)
    expect(page.locator(".jobs")).to_contain_text("Nothing waits.")


def test_what_is_over_comes_a_page_at_a_time(page: Page, lab: Lab) -> None:
    """The newest first; a search goes on where the last one ended."""
    for number in range(60):
        lab.call("JobService/CancelJob", {"jobId": waiting(lab, f"over-{number}")})
    page.goto(f"{lab.url}/jobs?state=cancelled")
    rows = part(page, "Finished").get_by_role("row").filter(has=page.get_by_role("checkbox"))
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text("over-59")
    page.get_by_role("button", name="Show more").click()
    until(lambda: rows.count() >= 60, lambda: f"{rows.count()} rows")
    page.get_by_label("Text").fill("over-1")
    expect(rows).to_have_count(11)


def test_who_may_only_look_is_offered_no_orders(page: Page, secure_lab: Lab, complaints: Complaints) -> None:
    """And people cancel nothing of others."""
    spec: Any = {
        "name": "mine",
        "train": {"model": "yolov8n", "data": "/data/cells/data.yaml"},
    }
    tokens = {
        role: secure_lab.call("AccessService/CreateToken", {"user": user, "role": role})["token"]
        for user, role in [("ada", "USER"), ("vera", "VIEWER")]
    }
    secure_lab.call("JobService/SubmitJob", {"spec": spec}, token=tokens["USER"])
    page.goto(f"{secure_lab.url}/jobs")
    enter(page, tokens["USER"])
    expect(page.get_by_label("Cancel mine")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    enter(page, tokens["VIEWER"])
    expect(page.get_by_label("Choose mine").or_(page.get_by_text("Nothing waits."))).to_be_visible()
    for order in ("Cancel", "Clone", "Priority of"):
        expect(page.get_by_label(f"{order} mine")).to_have_count(0)
    refusals(complaints)


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_the_queue(browser: Browser, lab: Lab, pictures: Path, scheme: str, width: int) -> None:
    """Axe has nothing against it, and nothing is wider than the window."""
    waiting(lab, "🚜" * 32)
    waiting(lab, "n" * 128, "u" * 60)
    lab.call("JobService/CancelJob", {"jobId": waiting(lab, "over")})
    lab.submit("runs", gpuModels=["4090"])
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{lab.url}/jobs")
    expect(row(page, "runs", "Running")).to_contain_text("epoch 1 / 40")
    row(page, "runs", "Running").get_by_role("checkbox").check()
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=f"{pictures}.png", full_page=True)
    context.close()
