"""Jobs and sweeps beside each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Complaints
from lab import Lab
from playwright.sync_api import Browser, Page, expect
from test_cluster import axe
from test_job import bench, chart, ended

RATES = ("0.01", "0.02", "0.05")
MAP = "mAP50-95"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose jobs end."""
    lab = bench(tmp_path_factory.mktemp("bench"))
    yield lab
    lab.stop()


@pytest.fixture(scope="module")
def jobs(yard: Lab) -> list[str]:
    """Three jobs that differ in their learning rate; the last one is the best."""
    made = [yard.submit(f"rate {rate} <b>", {"epochs": 6, "lr0": float(rate)}) for rate in RATES]
    return [ended(yard, job) for job in made]


@pytest.fixture(scope="module")
def sweep(yard: Lab) -> str:
    """Four jobs of a sweep."""
    train = {"model": "yolov8s", "data": str(yard.data()), "epochs": 4}
    axes = [
        {"parameter": "lr0", "values": ["0.01", "0.03"]},
        {"parameter": "optimizer", "values": ["SGD", "AdamW"]},
    ]
    answer = yard.call(
        "JobService/SubmitSweep",
        {"spec": {"name": "sweep <i>", "train": train}, "axes": axes},
    )
    for job in yard.call("JobService/ListJobs", {"sweepId": answer["sweepId"]})["jobs"]:
        ended(yard, job["id"])
    return str(answer["sweepId"])


def test_jobs_are_chosen_from_a_list_and_compared(page: Page, yard: Lab, jobs: list[str]) -> None:
    """By a click in the navigation and two boxes."""
    page.goto(yard.url)
    page.get_by_role("link", name="Compare").click()
    page.get_by_label("Name, owner or data set").fill("rate")
    for rate in RATES[:2]:
        page.get_by_label(f"Compare rate {rate} <b>").check()
    page.get_by_role("button", name="Compare 2").click()
    expect(page).to_have_url(f"{yard.url}/compare?jobs={jobs[0]},{jobs[1]}")
    expect(chart(page, MAP).get_by_role("button")).to_have_text(
        [re.compile(f"^rate {rate} <b> 0.[56]") for rate in RATES[:2]]
    )


def test_a_job_that_comes_can_be_chosen_and_is_seen_to_end(page: Page, yard: Lab) -> None:
    """Without a reload."""
    page.goto(f"{yard.url}/compare")
    expect(page.get_by_role("searchbox")).to_be_visible()
    job = yard.submit("latecomer", {"epochs": 900})
    row = page.get_by_role("row").filter(has=page.get_by_role("checkbox", name="Compare latecomer"))
    expect(row.locator(".pill")).to_have_text("running")
    yard.call("JobService/CancelJob", {"jobId": job})
    expect(row.locator(".pill")).to_have_text("cancelled")


def test_what_is_shown_is_in_the_address(page: Page, yard: Lab, jobs: list[str]) -> None:
    """Curves that are hidden, the figure, the order."""
    page.goto(f"{yard.url}/compare?jobs={','.join(jobs)}")
    chart(page, MAP).get_by_role("button", name=re.compile(f"^rate {RATES[1]}")).press("Enter")
    expect(page).to_have_url(re.compile(f"show={jobs[0]},{jobs[2]}$"))
    page.get_by_role("combobox", name="Figure").select_option("train/box_loss")
    expect(page.get_by_text("best train/box_loss:")).to_be_visible()
    page.get_by_role("region", name="Settings that differ").get_by_role("button", name="lr0").click()
    expect(page).to_have_url(re.compile("metric=train/box_loss&sort=-lr0$"))
    page.reload()
    shown = chart(page, "train/box_loss").get_by_role("button")
    expect(shown.nth(1)).to_have_attribute("aria-pressed", "false")
    expect(shown.nth(2)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("rowheader")).to_have_text([re.compile(f"rate {rate}") for rate in reversed(RATES)])


def test_settings_that_differ_stand_beside_the_figures(page: Page, yard: Lab, jobs: list[str]) -> None:
    """The best is named, and opened by a click; a job is left out by another one."""
    page.goto(f"{yard.url}/compare?jobs={','.join(jobs)}")
    heads = page.get_by_role("columnheader")
    expect(heads.nth(2)).to_have_text("lr0")
    expect(heads.nth(4)).to_have_text(f"{MAP} ↓")
    cells = page.get_by_role("region", name="Settings that differ").locator("tbody tr").first.get_by_role("cell")
    expect(cells.nth(1)).to_have_text("0.05")
    expect(cells.nth(3)).to_have_text("0.65")
    page.get_by_role("button", name=f"Remove rate {RATES[0]} <b>").click()
    expect(page).to_have_url(f"{yard.url}/compare?jobs={jobs[1]},{jobs[2]}")
    expect(page.get_by_role("rowheader")).to_have_count(2)
    page.get_by_text(f"best {MAP}:").get_by_role("link").click()
    expect(page.get_by_role("heading", name=f"rate {RATES[2]} <b>")).to_be_visible()
    page.go_back()
    page.get_by_role("link", name="Clone the best").click()
    expect(page).to_have_url(f"{yard.url}/new?from={jobs[2]}")


def test_who_is_not_there_is_told_and_the_others_are_compared(
    page: Page, yard: Lab, jobs: list[str], complaints: Complaints
) -> None:
    """In the scheduler's words."""
    page.goto(f"{yard.url}/compare?jobs={jobs[0]},nonsense")
    expect(page.get_by_role("alert")).to_contain_text("there is no job `nonsense`")
    expect(page.get_by_role("rowheader")).to_have_count(1)
    page.goto(f"{yard.url}/compare?sweep=nonsense")
    expect(page.get_by_role("alert")).to_contain_text("nonsense")
    complaints[:] = [text for text in complaints if "status of 4" not in text]


def test_a_sweep_is_shown_over_its_parameters(page: Page, yard: Lab, sweep: str) -> None:
    """A line a job, which opens it."""
    page.goto(f"{yard.url}/compare?sweep={sweep}")
    expect(page.get_by_role("heading", name="sweep <i>")).to_be_visible()
    page.goto(f"{yard.url}/compare")
    page.get_by_role("link", name="sweep <i>").click()
    lines = page.get_by_role("img", name=re.compile("4 jobs over lr0, optimizer")).locator("path")
    expect(lines).to_have_count(4)
    expect(page.get_by_text(f"best {MAP}:")).to_contain_text("lr0 0.03")
    expect(chart(page, MAP).get_by_role("button")).to_have_count(4)
    lines.last.dispatch_event("click")
    expect(page.get_by_role("region", name="Settings")).to_contain_text("0.03")


def test_a_large_sweep_draws_the_rows_in_view(page: Page, yard: Lab) -> None:
    """And all of them, to whoever scrolls."""
    train = {"model": "yolov8s", "data": str(yard.data())}
    spec = {"name": "large", "train": train, "resources": {"minVramMib": 90_000}}
    axes = [{"parameter": "seed", "values": [str(seed) for seed in range(300)]}]
    sweep = yard.call("JobService/SubmitSweep", {"spec": spec, "axes": axes})["sweepId"]
    page.goto(f"{yard.url}/compare?sweep={sweep}&sort=seed")
    expect(page.get_by_text("300 jobs")).to_be_visible()
    table = page.get_by_role("table")
    expect(table).to_have_attribute("aria-rowcount", "300")
    expect(table.get_by_role("cell", name="0", exact=True)).to_be_visible()
    assert table.get_by_role("rowheader").count() < 100
    box = page.get_by_role("group", name="Jobs")
    box.evaluate("box => box.scrollTo(0, box.scrollHeight)")
    box.evaluate("box => box.scrollIntoView()")
    expect(table.get_by_role("cell", name="299", exact=True)).to_be_in_viewport()
    yard.call("JobService/CancelSweep", {"sweepId": sweep})


@pytest.mark.parametrize("seen", [("light", 1440), ("light", 390), ("dark", 1440), ("dark", 390)])
def test_everybody_can_compare(browser: Browser, yard: Lab, sweep: str, pictures: Path, seen: tuple[Any, int]) -> None:
    """Axe has nothing against it, and nothing is wider than the window."""
    scheme, width = seen
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{yard.url}/compare?sweep={sweep}")
    chart(page, MAP)
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=f"{pictures}.png", full_page=True)
    page.goto(f"{yard.url}/compare")
    expect(page.get_by_role("link", name="sweep <i>")).to_be_visible()
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
