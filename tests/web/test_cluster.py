"""The view of the cluster, with machines and GPUs behind it."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from conftest import Complaints
from lab import MACHINES, Lab, until
from playwright.sync_api import Browser, Page, expect


def machine(page: Page, name: str) -> Any:
    """The part of the page about a machine."""
    return page.get_by_role("region", name=name)


def axe(page: Page) -> list[str]:
    """What axe-core has against a page."""
    page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]


def test_every_gpu_is_shown_with_its_model_memory_and_state(page: Page, lab: Lab) -> None:
    """Eight GPUs of three machines."""
    page.goto(lab.url)
    expect(page).to_have_title("Cluster · Trainyard")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    for name, gpus in MACHINES.items():
        tiles = machine(page, name).get_by_role("listitem").filter(has=page.get_by_role("img"))
        expect(tiles).to_have_count(len(gpus))
        model = gpus[0]["name"].removeprefix("NVIDIA GeForce ")
        expect(tiles.first.get_by_role("heading")).to_have_text(f"0 {model}")
        expect(tiles.first).to_contain_text(f"{gpus[0]['memory_total_mib'] / 1024:.1f} GiB")
    expect(machine(page, "lab-2").get_by_role("heading", name="CPU slot 0")).to_be_visible()


def test_a_machine_is_drained_and_resumed_by_a_click(page: Page, lab: Lab) -> None:
    """What others order is shown as well."""
    page.goto(lab.url)
    shown = machine(page, "lab-2")
    shown.get_by_role("button", name="Drain").click()
    expect(shown.locator("header .pill")).to_have_text("drained")
    expect(shown.get_by_role("listitem").first).to_contain_text("takes jobs again once it is resumed")
    assert lab.machine("lab-2")["drained"] is True
    lab.call("ClusterService/ResumeAgent", {"agent": "lab-2"})
    expect(shown.get_by_role("button", name="Drain")).to_be_visible()
    expect(shown.locator("header .pill")).to_have_count(0)


def test_jobs_leave_only_when_that_is_confirmed(page: Page, lab: Lab) -> None:
    """Where one drains and reserves; they are named."""
    job = lab.submit("to be thrown off", gpuModels=["5070"])
    page.goto(lab.url)
    tile = machine(page, "lab-2").get_by_role("listitem").filter(has_text="to be thrown off")
    expect(tile.locator(".pill")).to_have_text("busy")
    page.get_by_role("button", name="Drain lab-2", exact=True).click()
    dialog = page.get_by_role("dialog", name="Drain lab-2? to be thrown off will be saved and go elsewhere.")
    assert axe(page) == []
    dialog.get_by_role("button", name="Back").click()
    tile.get_by_label("Orders for GPU").click()
    tile.get_by_role("button", name="of lab-2 for 2 hours").click()
    page.get_by_role("dialog", name="to be thrown off will be saved").press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    shown = lab.machine("lab-2")
    assert not shown.get("drained")
    assert not any("reservedUntil" in one for one in shown["gpus"])
    page.get_by_role("button", name="Drain lab-2", exact=True).click()
    dialog.get_by_role("button", name="Drain it").click()
    expect(machine(page, "lab-2").locator("header .pill")).to_have_text("drained")
    lab.call("JobService/CancelJob", {"jobId": job})
    page.get_by_role("button", name="Resume lab-2", exact=True).click()
    expect(machine(page, "lab-2").locator("header .pill")).to_have_count(0)


def test_no_two_buttons_of_the_cluster_have_one_name(page: Page, lab: Lab) -> None:
    """Whoever hears them knows of which machine and GPU they are, in menus as well."""
    page.goto(lab.url)
    expect(page.locator("summary")).to_have_count(8)
    page.locator("details").evaluate_all("all => all.forEach(one => (one.open = true))")
    expect(page.get_by_role("button", name="for 1 week")).to_have_count(8)
    names = re.findall(r'button "([^"]+)"', page.locator("main").aria_snapshot())
    assert len(names) > 40
    assert sorted(set(names)) == sorted(names)


def test_a_gpu_is_reserved_and_released_by_keyboard(page: Page, lab: Lab) -> None:
    """The menu of a tile opens, closes and orders without a mouse."""
    page.goto(lab.url)
    tile = machine(page, "desk-ada").get_by_role("listitem").first
    tile.get_by_label("Orders for GPU 0 of desk-ada").press("Enter")
    tile.get_by_role("button", name="2 hours").press("Escape")
    expect(tile.get_by_role("button", name="2 hours")).to_be_hidden()
    tile.get_by_label("Orders for GPU 0 of desk-ada").press("Enter")
    tile.get_by_role("button", name="2 hours").press("Enter")
    expect(tile.locator(".pill")).to_have_text("reserved")
    expect(tile).to_contain_text(re.compile(r"reserved for its owner until \d"))
    tile.get_by_label("Orders for GPU 0 of desk-ada").press("Enter")
    tile.get_by_role("button", name="Release").press("Enter")
    expect(tile.locator(".pill")).to_have_text("free")


def test_a_job_is_shown_where_it_trains_and_goes_when_it_ends(page: Page, lab: Lab) -> None:
    """Its progress comes by the stream."""
    page.goto(lab.url)
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    job = lab.submit("cells-<b>640</b>", gpuModels=["4090"])
    tile = machine(page, "lab-1").get_by_role("listitem").filter(has_text="cells-")
    # What people write is text, whatever it looks like.
    expect(tile).to_contain_text("cells-<b>640</b>")
    expect(tile.locator(".pill")).to_have_text("busy")
    expect(tile.get_by_role("progressbar")).to_be_visible()
    expect(tile).to_contain_text("epoch 1 / 40")
    lab.call("JobService/CancelJob", {"jobId": job})
    expect(tile).to_have_count(0)


def test_after_a_restart_of_the_scheduler_the_page_goes_on(page: Page, lab: Lab, complaints: Complaints) -> None:
    """It says so meanwhile, and shows what has changed since."""
    page.goto(lab.url)
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    lab.kill("scheduler")
    expect(page.get_by_text("reconnecting…")).to_be_visible()
    lab.start_scheduler()
    until(
        lambda: lab.machine("lab-1").get("state") == "CONNECTED",
        lambda: lab.log("lab-1"),
    )
    lab.call("ClusterService/DrainAgent", {"agent": "lab-1"})
    expect(page.get_by_text("live", exact=True)).to_be_visible(timeout=30_000)
    expect(machine(page, "lab-1").locator("header .pill")).to_have_text("drained")
    lab.call("ClusterService/ResumeAgent", {"agent": "lab-1"})
    expect(machine(page, "lab-1").locator("header .pill")).to_have_count(0)
    # Chromium itself tells of connections that were refused, and of answers of a scheduler that starts.
    complaints[:] = [text for text in complaints if "net::ERR_" not in text and "status of 503" not in text]


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(browser: Browser, lab: Lab, pictures: Path, scheme: str, width: int) -> None:
    """Axe has nothing against it, and nothing is wider than the window."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(lab.url)
    expect(machine(page, "lab-2").get_by_role("heading", name="CPU slot 0")).to_be_visible()
    assert axe(page) == []
    page.get_by_label("Orders for GPU 0 of lab-1").click()
    assert axe(page) == []
    page.get_by_label("Orders for GPU 0 of lab-1").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=f"{pictures}.png", full_page=True)
    context.close()


def test_the_theme_is_the_systems_until_somebody_chooses_one(page: Page, lab: Lab) -> None:
    """And stays chosen."""
    page.goto(lab.url)
    button = page.get_by_role("button", name="Theme: system")
    button.click()
    page.get_by_role("button", name="Theme: light").click()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 21)"


@pytest.mark.parametrize("address", ["/jobs/", "/data/", "/compare/", "/new/"])
def test_a_stroke_at_the_end_of_an_address_changes_nothing(page: Page, lab: Lab, address: str) -> None:
    """It is the same view, also when it is asked for first."""
    page.goto(lab.url + address)
    current = page.get_by_role("navigation").locator("[aria-current=page]")
    expect(current).to_have_attribute("href", address.rstrip("/"))
    expect(page.get_by_role("heading", level=1)).to_be_visible()


@pytest.mark.parametrize("address", ["/jobs/nothing/here", "/jobs/%E0%A4%A", "/data/a/%ff", "/weights/%"])
def test_an_address_without_a_view_says_so_and_the_name_leads_home(page: Page, lab: Lab, address: str) -> None:
    """Without asking the scheduler for another page."""
    page.goto(lab.url + address)
    expect(page.get_by_role("heading", name="No such page")).to_be_visible()
    expect(page.get_by_text(address)).to_be_visible()
    page.get_by_role("link", name="Trainyard").click()
    expect(page.get_by_role("heading", name="Cluster")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="No such page")).to_be_visible()
