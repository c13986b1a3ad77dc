"""A job: its curves, log, tables and pictures, and what one can do with it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trainer
from conftest import Complaints
from lab import Lab, gpu, until
from playwright.sync_api import Browser, Locator, Page, expect
from test_cluster import axe

NAME = "cells <img src=x onerror=alert(1)> 🚜"


def bench(folder: Path) -> Lab:
    """A machine with two GPUs whose trainer tells much."""
    lab = Lab(folder)
    lab.start_scheduler()
    text = f"#!{sys.executable}\n{Path(trainer.__file__).read_text()}"
    lab.start_agent(
        "bench",
        [gpu(number, "GeForce RTX 4090", 24564) for number in (1, 2)],
        trainer_text=text,
    )
    return lab


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose jobs end."""
    lab = bench(tmp_path_factory.mktemp("bench"))
    yield lab
    lab.stop()


@pytest.fixture(scope="module")
def done(yard: Lab) -> str:
    """A job that has trained to its end."""
    return ended(yard, yard.submit(NAME, {"epochs": 12}))


def ended(lab: Lab, job: str) -> str:
    """Waits until a job is over; its id."""
    state = {"SUCCEEDED", "FAILED", "CANCELLED"}
    until(
        lambda: lab.call("JobService/GetJob", {"jobId": job})["state"] in state,
        lambda: lab.log("bench"),
    )
    return job


def chart(page: Page, title: str) -> Locator:
    """A chart, once it is drawn."""
    found = page.get_by_role("figure").filter(has=page.get_by_role("img", name=f"{title} by "))
    expect(found.locator("canvas")).to_be_visible()
    return found


def test_a_job_is_shown_with_its_curves_in_the_schedulers_words(page: Page, yard: Lab, done: str) -> None:
    """Text of people and trainers is text."""
    page.goto(f"{yard.url}/jobs/{done}")
    expect(page.get_by_role("heading", name=NAME)).to_be_visible()
    expect(page).to_have_title(f"{NAME} · Trainyard")
    job = yard.call("JobService/GetJob", {"jobId": done})
    expect(page.locator(".pill").first).to_have_text("succeeded")
    expect(page.get_by_text(job["stateReason"], exact=True).first).to_be_visible()
    expect(chart(page, "Training losses").get_by_role("button")).to_have_text([re.compile("box"), re.compile("cls")])
    expect(chart(page, "Accuracy").get_by_role("button")).to_have_text(["mAP50 0.6988", "mAP50-95 0.5988"])
    for title in (
        "Validation losses",
        "Learning rate",
        "Images a second",
        "Share of time",
    ):
        chart(page, title)
    expect(page.get_by_role("log")).to_contain_text("2 corrupt images skipped: <script>alert(1)</script>")
    speed = page.get_by_role("region", name="Speed")
    verdict = yard.call("JobService/DiagnoseJob", {"jobId": done})["headline"]
    expect(speed.locator("h2 + *, header + *").first).to_have_text(verdict)

    def says_what_was_found() -> bool:
        """What its GPU did is known a moment later."""
        page.reload()
        expect(speed).to_contain_text("What was seen")
        shown = speed.inner_text()
        return all(found in shown for found in yard.call("JobService/DiagnoseJob", {"jobId": done})["findings"])

    until(says_what_was_found, speed.inner_text)
    attempts = page.get_by_role("region", name="Attempts")
    expect(attempts).to_contain_text("completed")
    expect(attempts).to_contain_text(job["attempts"][0]["message"])
    layers = job["attempts"][0]["batchChosen"]["layers"]
    for layer in layers:
        expect(page.get_by_role("region", name="Placement")).to_contain_text(layer["reason"])
    classes = page.get_by_role("region", name="Classes (2)")
    expect(classes.get_by_role("rowheader")).to_have_text(["all classes", "<b>nucleus</b>", "cell"])
    expect(page.get_by_role("region", name="Settings")).to_contain_text("weight_decay")
    page.get_by_role("link", name="Compare").last.click()
    expect(page).to_have_url(f"{yard.url}/compare?jobs={done}")
    page.go_back()
    page.get_by_role("link", name="Clone with changes").click()
    expect(page).to_have_url(f"{yard.url}/new?from={done}")


def test_a_part_of_an_id_leads_to_the_whole_one_and_a_wrong_one_says_so(
    page: Page, yard: Lab, done: str, complaints: Complaints
) -> None:
    """In the scheduler's words."""
    page.goto(f"{yard.url}/jobs/{done[:-2]}?x=time")
    expect(page).to_have_url(f"{yard.url}/jobs/{done}?x=time")
    page.goto(f"{yard.url}/jobs/nonsense")
    expect(page.get_by_role("heading", name="No such job")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("there is no job `nonsense`")
    complaints[:] = [text for text in complaints if "status of 404" not in text]


def test_a_running_job_is_followed_cancelled_and_queued_again(page: Page, yard: Lab) -> None:
    """Nothing is lost by one click."""
    job = yard.submit("slow", {"epochs": 100, "seed": trainer.SLOW})
    page.goto(f"{yard.url}/jobs/{job}")
    expect(page.locator(".far")).to_contain_text("epoch 2 / 100", timeout=30_000)
    losses = chart(page, "Training losses").get_by_role("button", name=re.compile("^box"))
    before = losses.inner_text()
    expect(losses).not_to_have_text(before)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Back").click()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".pill").first).to_have_text("cancelled")
    expect(page.get_by_role("log")).to_contain_text("cancelled")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".pill").first).to_have_text("running")
    expect(page.get_by_role("region", name="Attempts").locator("tbody tr:not(.told)")).to_have_count(2)
    yard.call("JobService/CancelJob", {"jobId": job})
    ended(yard, job)


def test_how_curves_are_looked_at_is_in_the_address(page: Page, yard: Lab, done: str) -> None:
    """A link shows the same to somebody else."""
    page.goto(f"{yard.url}/jobs/{done}")
    chart(page, "Accuracy")
    page.get_by_role("button", name="step", exact=True).press("Enter")
    page.get_by_label("Smoothing").select_option("0.9")
    page.get_by_label("log scale").check()
    expect(page).to_have_url(re.compile(r"\?x=step&smooth=0.9&log=1$"))
    box = chart(page, "Accuracy").locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20, steps=4)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"range=1\d\d[\d.]*,[23]\d\d"))
    page.reload()
    chart(page, "Accuracy")
    expect(page.get_by_role("button", name="step", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Smoothing")).to_have_value("0.9")
    expect(page.get_by_label("log scale")).to_be_checked()
    page.get_by_role("button", name="Whole range").click()
    expect(page).not_to_have_url(re.compile("range"))
    one = chart(page, "Training losses").get_by_role("button", name=re.compile("^box"))
    one.press("Space")
    expect(one).to_have_attribute("aria-pressed", "false")


def test_the_log_follows_until_somebody_reads(page: Page, yard: Lab, done: str) -> None:
    """And shows warnings alone, where one wants that."""
    page.goto(f"{yard.url}/jobs/{done}")
    log = page.get_by_role("log")
    expect(log).to_contain_text("succeeded")
    below = "log => log.scrollHeight - log.scrollTop - log.clientHeight"
    until(
        lambda: log.evaluate(below) < 2,
        lambda: f"{log.evaluate(below)} pixels of the log are below its end",
    )
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Follow").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    log.hover()
    page.mouse.wheel(0, -2000)
    expect(page.get_by_role("button", name="Follow")).to_be_visible()
    page.get_by_label("warnings only").check()
    expect(log.locator("div")).to_have_count(1)


def test_an_attempt_that_crashed_is_told_and_the_next_goes_on(page: Page, yard: Lab) -> None:
    """Both are in the table."""
    job = ended(yard, yard.submit("crashes", {"epochs": 8, "seed": trainer.CRASHES}))
    page.goto(f"{yard.url}/jobs/{job}")
    attempts = page.get_by_role("region", name="Attempts")
    expect(attempts.locator("tbody tr:not(.told) td:last-child")).to_have_text(["completed", "trainer crash"])
    expect(page.get_by_text("Dashed: an attempt began.")).to_be_visible()


def test_why_a_job_failed_is_the_first_that_one_reads(page: Page, yard: Lab) -> None:
    """As text."""
    job = ended(yard, yard.submit("fails", {"seed": trainer.FAILS}))
    page.goto(f"{yard.url}/jobs/{job}")
    expect(page.locator(".problem")).to_contain_text("the labels of <i>all</i> images are empty")
    expect(page.get_by_role("button", name="Retry")).to_be_visible()


def test_many_classes_are_sorted_by_a_click(page: Page, yard: Lab) -> None:
    """The best or the worst first."""
    job = ended(yard, yard.submit("classes", {"epochs": 3, "seed": trainer.CLASSES}))
    page.goto(f"{yard.url}/jobs/{job}")
    classes = page.get_by_role("region", name="Classes (100)")
    rows = classes.get_by_role("rowheader")
    expect(rows).to_have_count(101)
    expect(rows.nth(1)).to_have_text("class 099")
    classes.get_by_role("button", name="mAP50-95").click()
    expect(rows.nth(1)).to_have_text("class 000")
    expect(rows.nth(0)).to_have_text("all classes")


def test_artifacts_that_were_removed_say_so(page: Page, yard: Lab, done: str, complaints: Complaints) -> None:
    """Pictures in their places, files once somebody wants them."""
    page.route("**/files/jobs/**", lambda route: route.fulfill(status=404, body="gone"))
    page.goto(f"{yard.url}/jobs/{done}")
    pictures = page.get_by_role("region", name="Pictures")
    pictures.scroll_into_view_if_needed()
    expect(pictures.get_by_text("was removed").first).to_be_visible()
    link = page.get_by_role("region", name="Artifacts").get_by_role("link").first
    name = link.inner_text()
    link.click()
    expect(page.locator(".note.error")).to_contain_text(f"{name} was removed")
    complaints[:] = [text for text in complaints if "status of 404" not in text]


def test_pictures_are_looked_at_and_artifacts_downloaded(page: Page, yard: Lab, done: str) -> None:
    """Pictures by mouse and keyboard."""
    page.goto(f"{yard.url}/jobs/{done}")
    pictures = page.get_by_role("region", name="Pictures")
    expect(pictures.get_by_role("button")).to_have_text(["val_batch0_pred.jpg", "train_batch0.jpg", "results.png"])
    pictures.scroll_into_view_if_needed()
    expect(pictures.locator("img").first).to_have_js_property("naturalWidth", 64)
    pictures.get_by_role("button", name="Look at train_batch0.jpg").click()
    large = page.get_by_role("dialog")
    expect(large.get_by_role("img", name="train_batch0.jpg")).to_have_js_property("naturalWidth", 64)
    page.keyboard.press("ArrowRight")
    expect(large.get_by_role("img", name="results.png")).to_be_visible()
    page.keyboard.press("Escape")
    expect(large).to_be_hidden()
    link = page.get_by_role("link", name="weights/best.safetensors")
    expect(link).to_have_attribute("download", "best.safetensors")
    text = page.evaluate("url => fetch(url).then((answer) => answer.text())", link.get_attribute("href"))
    assert text == "epoch,time\n1,2\n"


def test_pictures_of_a_running_job_come_as_they_are_drawn(page: Page, yard: Lab) -> None:
    """The newest first, and an old one stays until the next can be drawn."""
    job = yard.submit("draws", {"epochs": 1000, "seed": trainer.DRAWS})
    page.goto(f"{yard.url}/jobs/{job}")
    pictures = page.get_by_role("region", name="Pictures")
    expect(pictures.get_by_role("button")).to_have_count(3)
    pictures.scroll_into_view_if_needed()
    own = pictures.get_by_role("button", name="Look at train_batch2.jpg").locator("img")
    expect(own).not_to_have_js_property("naturalWidth", 0)
    before = own.evaluate("image => { image.dataset.seen = 'yes'; return [image.src, image.naturalWidth]; }")
    # What is drawn into the same element is never nothing.
    own.evaluate(
        """image => {
          window.empty = 0;
          (function look() {
            empty += !image.naturalWidth;
            requestAnimationFrame(look);
          })();
        }"""
    )
    expect(pictures.get_by_role("listitem")).to_have_text([f"train_batch{number}.jpg" for number in (2, 0, 1)])
    until(lambda: own.get_attribute("src") not in before[0], lambda: str(before))
    expect(own).to_have_attribute("data-seen", "yes")
    assert page.evaluate("empty") == 0
    until(lambda: own.evaluate("image => image.naturalWidth") > before[1], lambda: str(before))
    yard.call("JobService/CancelJob", {"jobId": job})
    ended(yard, job)


def test_pictures_that_are_gone_leave_their_names(page: Page, yard: Lab, done: str, complaints: Complaints) -> None:
    """The rest of the page is as it was."""
    page.route("**/files/**", lambda route: route.fulfill(status=404, body="gone"))
    page.goto(f"{yard.url}/jobs/{done}")
    picture = page.get_by_role("button", name="Look at results.png")
    picture.scroll_into_view_if_needed()
    expect(picture).to_be_disabled()
    expect(picture).to_have_text("was removedresults.png")
    complaints[:] = [text for text in complaints if "status of 404" not in text]


@pytest.mark.parametrize(("scheme", "line"), [("light", "rgb(43, 86, 200)"), ("dark", "rgb(132, 168, 255)")])
def test_curves_are_drawn_in_the_colours_of_the_theme(
    browser: Browser, yard: Lab, done: str, scheme: Any, line: str
) -> None:
    """As the style sheet has them."""
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{yard.url}/jobs/{done}")
    canvas = chart(page, "Learning rate").locator("canvas")
    drawn = """canvas => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const colours = new Set();
      for (let at = 0; at < data.length; at += 4)
        if (data[at + 3] === 255) colours.add(`rgb(${data[at]}, ${data[at + 1]}, ${data[at + 2]})`);
      return [...colours];
    }"""
    until(lambda: line in canvas.evaluate(drawn), lambda: str(canvas.evaluate(drawn)))
    context.close()


@pytest.mark.parametrize("seen", [("light", 1440), ("light", 390), ("dark", 1440), ("dark", 390)])
def test_everybody_can_use_a_job(browser: Browser, yard: Lab, done: str, pictures: Path, seen: tuple[Any, int]) -> None:
    """Axe has nothing against it, and nothing is wider than the window."""
    scheme, width = seen
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{yard.url}/jobs/{done}")
    chart(page, "Share of time")
    expect(page.get_by_role("region", name="Artifacts")).to_be_visible()
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=f"{pictures}.png", full_page=True)
    context.close()
