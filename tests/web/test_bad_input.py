"""What is not there any more, or never was, and what is larger than usual."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import trainer
from conftest import Complaints
from lab import Lab
from playwright.sync_api import Browser, Page, expect
from test_cluster import axe
from test_job import bench, ended


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose jobs end."""
    lab = bench(tmp_path_factory.mktemp("bad-input"))
    yield lab
    lab.stop()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/jobs/nonsense", "there is no job `nonsense`"),
        ("/compare?jobs=nonsense", "there is no job `nonsense`"),
        ("/compare?sweep=nonsense", "nonsense"),
        ("/data/nonsense", "There is none of this name"),
        ("/data/nonsense/0123456789ab", "nonsense"),
        ("/weights/nonsense", "There is none of this name"),
        ("/weights/nonsense/0123456789ab", "nonsense"),
        ("/new?from=nonsense", "there is no job `nonsense`"),
    ],
)
def test_each_view_says_in_words_that_there_is_no_such_thing(
    page: Page, lab: Lab, complaints: Complaints, address: str, words: str
) -> None:
    """And is a view all the same."""
    page.goto(lab.url + address)
    told = page.get_by_role("alert").or_(page.locator("main p.muted")).filter(has_text=words)
    expect(told.first).to_be_visible()
    expect(page.locator("h1").first).to_be_visible()
    complaints[:] = [text for text in complaints if not re.search("status of 40[04]", text)]


def test_a_browser_without_javascript_says_so_and_what_to_do(browser: Browser, lab: Lab) -> None:
    """The commands show the same."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{lab.url}/jobs/some")
    # Playwright itself looks past what stands there for such browsers; people who read and listen do not.
    nodes = context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    told = [node["name"]["value"] for node in nodes if node.get("role", {}).get("value") == "StaticText"]
    assert any(text.startswith("This page needs JavaScript.") for text in told), told
    assert "yard watch ID" in told
    context.close()


def test_a_job_with_500_classes_is_shown_and_its_table_stays_short(page: Page, yard: Lab) -> None:
    """Whatever part of the classes the scheduler keeps: the whole model comes first."""
    job = ended(yard, yard.submit("classes", {"epochs": 3, "seed": trainer.MORE_CLASSES}))
    metrics = yard.call("JobService/GetJob", {"jobId": job})["progress"]["metrics"]
    kept = {name.rpartition("/")[2] for name in metrics if "(B)/" in name}
    page.goto(f"{yard.url}/jobs/{job}")
    classes = page.get_by_role("region", name=f"Classes ({len(kept)})")
    expect(classes.get_by_role("rowheader").first).to_have_text("all classes")
    assert len(kept) > 100
    assert classes.locator("tr").count() <= 160
    assert axe(page) == []


def test_a_name_of_128_emoji_is_refused_in_words_and_the_longest_is_shown_everywhere(
    page: Page, yard: Lab, complaints: Complaints
) -> None:
    """On a telephone as well."""
    name = "🚜" * 32
    job = ended(yard, yard.submit(name, {"epochs": 2}))
    page.set_viewport_size({"width": 390, "height": 844})
    for address in (f"/jobs/{job}", "/jobs", f"/compare?jobs={job}", f"/new?from={job}"):
        page.goto(yard.url + address)
        expect(page.get_by_text(name).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_label("name", exact=True).fill(4 * name)
    expect(page.get_by_role("complementary", name="Plan")).to_contain_text("has 512 bytes; use at most 128")
    complaints[:] = [text for text in complaints if "status of 400" not in text]


def test_artifacts_that_were_removed_leave_the_rest_of_the_job(page: Page, yard: Lab, complaints: Complaints) -> None:
    """A download is refused in words."""
    job = ended(yard, yard.submit("removed", {"epochs": 2}))
    blobs = [path for path in (yard.folder / "scheduler" / "blobs").rglob("*") if path.is_file() and path.name != "id"]
    assert blobs
    for path in blobs:
        path.unlink()
    page.goto(f"{yard.url}/jobs/{job}")
    picture = page.get_by_role("button", name="Look at results.png")
    picture.scroll_into_view_if_needed()
    expect(picture).to_be_disabled()
    expect(picture).to_contain_text("was removed")
    expect(picture).to_contain_text("results.png")
    page.get_by_role("link", name="weights/best.safetensors").click()
    expect(page.locator(".note.error")).to_contain_text("weights/best.safetensors was removed")
    expect(page.get_by_role("region", name="Settings")).to_contain_text("weight_decay")
    link = page.get_by_role("link", name="weights/best.safetensors").get_attribute("href")
    answer = page.request.get(f"{yard.url}{link}")
    assert not answer.ok
    assert answer.json()["message"]
    complaints[:] = [text for text in complaints if not re.search("status of [45]0[0-9]", text)]
