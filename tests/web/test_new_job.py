"""A job that is filled in."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Complaints
from lab import PROGRAMS, Lab
from playwright.sync_api import Browser, Page, expect
from test_cluster import axe
from test_data import push


@pytest.fixture(autouse=True)
def refusals(page: Page, complaints: Complaints) -> Iterator[None]:
    """Chromium itself tells of answers that refuse; nothing else may be there."""
    assert page
    yield
    complaints[:] = [text for text in complaints if "the server responded with a status of" not in text]


def test_defaults_are_the_schedulers_and_what_is_wrong_is_told_at_its_field(page: Page, lab: Lab) -> None:
    """In the scheduler's words, before anything is queued."""
    page.goto(f"{lab.url}/new")
    expect(page).to_have_title("New job · Trainyard")
    expect(page.get_by_label("epochs", exact=True)).to_have_attribute("placeholder", "100")
    expect(page.get_by_label("data", exact=True)).to_be_visible()
    page.get_by_label("data", exact=True).fill("no-such-data")
    plan = page.get_by_role("complementary", name="Plan")
    expect(page.locator("#f-train\\.data-wrong")).to_contain_text("there is no data set `no-such-data`")
    page.get_by_label("data", exact=True).fill(str(lab.data()))
    expect(plan).to_contain_text("valid")
    page.get_by_text("Optimiser").click()
    page.get_by_label("lr0").fill("99")
    expect(page.locator("#f-train\\.lr0-wrong")).to_have_text("is 99; use 0.000000000001 to 10")
    page.get_by_text("Optimiser").click()
    page.get_by_role("button", name="Submit").click()
    # The group opens, and the field is at hand.
    expect(page.get_by_label("lr0")).to_be_focused()
    assert page.url.endswith("/new")


def test_a_job_is_planned_and_submitted(page: Page, lab: Lab) -> None:
    """What is left alone takes its default; the page then is the job's."""
    name = push(lab, "to-train-on")
    page.goto(f"{lab.url}/new?data={name}")
    plan = page.get_by_role("complementary", name="Plan")
    expect(plan).to_contain_text(re.compile(r"to-train-on@[0-9a-f]{12}"))
    expect(plan.get_by_role("row", name="RTX 4090")).to_contain_text("/ 4")
    page.get_by_label("model", exact=True).select_option("yolov8s")
    page.get_by_label("name", exact=True).fill('"><script>alert(1)</script>')
    page.get_by_label("epochs", exact=True).fill("7")
    page.get_by_label("gpu_models").fill("4060, 4090")
    # Of the kinds that would do there is a plan each, in the scheduler's order.
    spec = {"train": {"data": str(lab.data()), "model": "yolov8s"}, "resources": {"gpuModels": ["4060", "4090"]}}
    planned = lab.call("JobService/SubmitJob", {"spec": spec, "validateOnly": True})["plan"]["options"]
    names = [one["device"].removeprefix("NVIDIA GeForce ") for one in planned]
    expect(plan.locator("tbody tr td:first-child")).to_have_text(names)
    page.get_by_label("time_limit").fill("1h30m")
    page.get_by_label("labels").fill("fold=3, why=to see")
    page.get_by_label("priority").fill("-5")
    page.get_by_text("More of the training").click()
    page.get_by_label("amp").select_option("false")
    page.get_by_role("button", name="Submit").press("Enter")
    page.wait_for_url("**/jobs/*")
    job = lab.call("JobService/GetJob", {"jobId": page.url.rsplit("/", 1)[1]})
    spec = job["spec"]
    train = spec["train"]
    assert (train["model"], train["epochs"], train["amp"], train["imgsz"]) == (
        "yolov8s",
        7,
        False,
        640,
    )
    assert train["data"].startswith("to-train-on@")
    assert spec["resources"]["gpuModels"] == ["4060", "4090"]
    assert (spec["timeLimit"], spec["priority"]) == ("5400s", -5)
    assert spec["labels"] == {"fold": "3", "why": "to see"}
    # What was sent is not kept for the next one.
    page.goto(f"{lab.url}/new?data={name}")
    expect(page.get_by_label("epochs", exact=True)).to_have_value("")
    lab.call("JobService/CancelJob", {"jobId": job["id"]})


@pytest.mark.parametrize("text", ["fold=3, alone", "=3"])
def test_labels_are_refused_in_the_words_of_yard(page: Page, lab: Lab, text: str) -> None:
    """Before anything is sent."""
    page.goto(f"{lab.url}/new?data={lab.data()}")
    page.get_by_label("labels").fill(text)
    wrong = page.locator("#f-labels-wrong")
    expect(wrong).to_be_visible()
    command = [str(PROGRAMS / "yard"), "train", "--label", text.rsplit(", ", maxsplit=1)[-1]]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert wrong.inner_text() in told
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_label("labels")).to_be_focused()
    assert page.url.endswith(f"/new?data={lab.data()}")


def test_a_key_twice_is_no_label_and_fields_are_told_of_by_their_names(page: Page, lab: Lab) -> None:
    """As they stand in the form and in the files of jobs."""
    page.goto(f"{lab.url}/new?data={lab.data()}")
    page.get_by_label("labels").fill("fold=3, why=a, fold=4")
    expect(page.locator("#f-labels-wrong")).to_have_text("`fold` is there twice; a label has one value")
    page.get_by_label("labels").fill("fold=3")
    expect(page.locator("#f-labels-wrong")).to_have_count(0)
    page.get_by_label("time_limit").fill("soon")
    plan = page.get_by_role("complementary", name="Plan")
    expect(plan.get_by_role("link", name="time_limit", exact=True)).to_be_visible()


def test_a_job_that_no_gpu_can_take_is_said_to_wait_in_the_schedulers_words(page: Page, lab: Lab) -> None:
    """It may be submitted all the same."""
    spec = {"train": {"data": str(lab.data()), "model": "yolov8n"}, "resources": {"minVramMib": 90000}}
    planned = lab.call("JobService/SubmitJob", {"spec": spec, "validateOnly": True})["plan"]
    page.goto(f"{lab.url}/new?data={lab.data()}")
    page.get_by_label("min_vram_mib").fill("90000")
    expect(page.get_by_role("complementary", name="Plan")).to_contain_text(planned["waitingSentence"])


def test_where_nobody_is_asked_who_they_are_one_says_it_once(page: Page, lab: Lab) -> None:
    """Jobs are of whom this browser names, and else of nobody."""
    page.goto(f"{lab.url}/new?data={lab.data()}")
    whose = page.get_by_label("as", exact=True)
    expect(whose).to_have_attribute("placeholder", "anonymous")
    whose.fill("ada")
    whose.blur()
    page.reload()
    expect(whose).to_have_value("ada")
    page.get_by_label("min_vram_mib").fill("90000")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/*")
    job = lab.call("JobService/GetJob", {"jobId": page.url.rsplit("/", 1)[1]})
    lab.call("JobService/CancelJob", {"jobId": job["id"]})
    assert job["user"] == "ada"


def test_a_clone_marks_what_differs(page: Page, lab: Lab) -> None:
    """And takes it back."""
    train = {
        "model": "yolov8m",
        "data": str(lab.data()),
        "epochs": 12,
        "lr0": 0.02,
        "cosLr": False,
    }
    spec = {
        "name": "first",
        "train": train,
        "resources": {"device": "cpu"},
        "labels": {"fold": "1"},
    }
    job = lab.call("JobService/SubmitJob", {"spec": spec})["jobId"]
    lab.call("JobService/CancelJob", {"jobId": job})
    page.goto(f"{lab.url}/new?from={job}")
    epochs = page.get_by_label("epochs", exact=True)
    expect(epochs).to_have_value("12")
    expect(page.get_by_label("model", exact=True)).to_have_value("yolov8m")
    expect(page.get_by_label("lr0")).to_have_value("0.02")
    expect(page.get_by_label("cos_lr")).to_have_value("false")
    expect(page.get_by_label("device")).to_have_value("cpu")
    expect(page.get_by_label("labels")).to_have_value("fold=1")
    marked = page.locator(".differs")
    expect(marked).to_have_count(0)
    epochs.fill("30")
    page.get_by_label("cos_lr").select_option("true")
    expect(marked).to_have_count(2)
    page.get_by_role("button", name="was 12").click()
    expect(epochs).to_have_value("12")
    expect(marked).to_have_count(1)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/*")
    clone = lab.call("JobService/GetJob", {"jobId": page.url.rsplit("/", 1)[1]})
    before = lab.call("JobService/GetJob", {"jobId": job})["spec"]
    before["train"]["cosLr"] = True
    assert clone["spec"] == before
    lab.call("JobService/CancelJob", {"jobId": clone["id"]})


def test_a_clone_trains_on_the_same_version(page: Page, lab: Lab) -> None:
    """Also when there is a newer one."""
    version = push(lab, "cloned")
    spec = {
        "train": {"model": "yolov8n", "data": version},
        "resources": {"minVramMib": 90000},
    }
    job = lab.call("JobService/SubmitJob", {"spec": spec})["jobId"]
    page.goto(f"{lab.url}/new?from={job}")
    expect(page.get_by_label("data", exact=True)).to_have_value(version)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/*")
    clone = lab.call("JobService/GetJob", {"jobId": page.url.rsplit("/", 1)[1]})
    before = lab.call("JobService/GetJob", {"jobId": job})
    assert clone["spec"] == before["spec"]
    for one in (clone, before):
        lab.call("JobService/CancelJob", {"jobId": one["id"]})


def test_a_job_that_is_not_there_cannot_be_cloned(page: Page, lab: Lab) -> None:
    """The scheduler says so."""
    page.goto(f"{lab.url}/new?from=ffffffff")
    expect(page.get_by_role("alert").filter(has_text="ffffffff")).to_be_visible()


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_fill_it_in(browser: Browser, lab: Lab, pictures: Path, scheme: str, width: int) -> None:
    """Axe has nothing against it, and nothing is wider than the window."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{lab.url}/new?data={lab.data()}")
    plan = page.get_by_role("complementary", name="Plan")
    expect(plan).to_contain_text("valid")
    for group in ("Optimiser", "Augmentation", "More of the training"):
        page.get_by_text(group).click()
    assert axe(page) == []
    page.get_by_label("epochs", exact=True).fill("0")
    expect(plan.get_by_role("link", name="epochs")).to_be_visible()
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=f"{pictures}.png", full_page=True)
    context.close()
