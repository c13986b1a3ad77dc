"""What the cluster's store has."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Complaints
from lab import PROGRAMS, Lab
from playwright.sync_api import Browser, Page, expect
from test_cluster import axe


def push(lab: Lab, name: str, kind: str = "data", path: Path | None = None) -> str:
    """Stores a version; `NAME@VERSION`."""
    what = path or lab.data()
    command = [
        str(PROGRAMS / "yard"),
        "--server",
        lab.url,
        kind,
        "push",
        str(what),
        "--name",
        name,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def weights(folder: Path) -> Path:
    """A file of weights, as small as one can be."""
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    file = folder / "tiny.safetensors"
    file.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    return file


@pytest.fixture(autouse=True)
def refusals(page: Page, complaints: Complaints) -> Iterator[None]:
    """Chromium itself tells of answers that refuse; nothing else may be there."""
    assert page
    yield
    complaints[:] = [text for text in complaints if "the server responded with a status of" not in text]


def test_versions_are_listed_and_lead_to_a_job(page: Page, lab: Lab, tmp_path: Path) -> None:
    """Data sets by name with their newest version, and weights."""
    page.goto(f"{lab.url}/data")
    expect(page).to_have_title("Data · Trainyard")
    stored = page.get_by_role("region", name="Weights")
    expect(stored).to_contain_text("yard weights push FILE")
    version = push(lab, "blobs").split("@")[1]
    push(lab, "tiny", "weights", weights(tmp_path))
    page.reload()
    row = page.get_by_role("region", name="Data sets").get_by_role("row", name="blobs")
    expect(row).to_contain_text(version)
    expect(row).to_contain_text("12 images, 3 classes")
    expect(stored.get_by_role("row", name="tiny")).to_be_visible()
    stored.get_by_role("link", name=re.compile("Train from tiny")).click()
    expect(page.get_by_label("pretrained")).to_have_value(re.compile("tiny@[0-9a-f]{12}"))
    page.go_back()
    row.get_by_role("link", name="blobs", exact=True).click()
    expect(page.get_by_role("heading", name="blobs")).to_be_visible()
    page.get_by_role("link", name=version, exact=True).click()
    files = page.get_by_role("region", name="Files")
    expect(files.get_by_role("row", name="images/train")).to_contain_text(re.compile("jpg *8"))
    expect(files.get_by_role("row", name="labels/val")).to_contain_text(re.compile("txt *4"))
    page.get_by_role("link", name=f"Train on blobs@{version}").click()
    expect(page.get_by_label("data", exact=True)).to_have_value(f"blobs@{version}")
    lab.call("DatasetService/DeleteDataset", {"kind": "WEIGHTS", "name": "tiny"})


def test_what_a_job_needs_is_not_deleted(page: Page, lab: Lab) -> None:
    """In the scheduler's words; without the job it goes, once that is confirmed."""
    version = push(lab, "needed")
    train = {"model": "yolov8n", "data": "needed"}
    spec = {"train": train, "resources": {"minVramMib": 90000}}
    job = lab.call("JobService/SubmitJob", {"spec": spec})["jobId"]
    page.goto(f"{lab.url}/data")
    page.get_by_label("Delete needed").click()
    dialog = page.get_by_role("dialog", name="Delete needed with all its versions?")
    assert axe(page) == []
    dialog.get_by_role("button", name="Delete it").click()
    refusal = page.locator(".note.error")
    expect(refusal).to_contain_text(job[:8])
    lab.call("JobService/CancelJob", {"jobId": job})
    page.get_by_role("region", name="Data sets").get_by_role("link", name="needed", exact=True).click()
    page.get_by_label(f"Delete {version}").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
    expect(page.get_by_text(f"{version} is deleted")).to_be_visible()
    page.wait_for_url("**/data")
    expect(page.get_by_label("Delete needed")).to_have_count(0)


def test_pictures_are_shown_with_their_boxes(page: Page, lab: Lab) -> None:
    """As many as the label files have, and fewer once a class is hidden."""
    name, version = push(lab, "blobs").split("@")
    asked = {"kind": "DATASET", "name": name, "version": version}
    summary = lab.call("DatasetService/GetDatasetSummary", asked)
    page.goto(f"{lab.url}/data/{name}/{version}")
    images = page.get_by_role("region", name="Images")
    for part in summary["images"]:
        expect(images).to_contain_text(re.compile(rf"{part['count']} ?{part['split']}"))
    for one in summary["classes"]:
        expect(images.get_by_role("row", name=one["name"])).to_contain_text(str(one["boxes"]))
    samples = page.get_by_role("region", name="Samples")
    sample = summary["samples"][0]
    shown = samples.get_by_role("listitem").first
    expect(shown.locator("rect")).to_have_count(len(sample["boxes"]))
    picture = shown.get_by_role("img")
    picture.scroll_into_view_if_needed()
    expect(picture).to_have_js_property("naturalWidth", 64)
    label = Path(re.sub("^images", "labels", sample["path"])).with_suffix(".txt")
    _, x, y, width, height = map(float, (lab.data().parent / label).read_text().split()[:5])
    frame, box = picture.bounding_box(), shown.locator("rect").first.bounding_box()
    assert frame is not None
    assert box is not None
    # A box is as wide as its label says, but for its line.
    for found, wanted in [
        (box["width"] / frame["width"], width),
        (box["height"] / frame["height"], height),
        ((box["x"] + box["width"] / 2 - frame["x"]) / frame["width"], x),
        ((box["y"] + box["height"] / 2 - frame["y"]) / frame["height"], y),
    ]:
        assert found == pytest.approx(wanted, abs=0.03)
    seen = samples.get_by_role("button", pressed=True)
    for number in range(seen.count()):
        seen.nth(0).click()
        expect(seen).to_have_count(2 - number)
    expect(samples.locator("rect")).to_have_count(0)


def test_what_is_pushed_and_removed_is_seen_without_a_reload(page: Page, lab: Lab) -> None:
    """In the list, and by whoever looks at the version."""
    page.goto(f"{lab.url}/data")
    expect(page.get_by_role("heading", name="Data sets")).to_be_visible()
    name, version = push(lab, "comes-and-goes").split("@")
    expect(page.get_by_label(f"Delete {name}")).to_be_visible()
    page.get_by_role("row", name=name).get_by_role("link", name=version, exact=True).click()
    train = page.get_by_role("link", name=f"Train on {name}@{version}")
    expect(train).to_be_visible()
    lab.call("DatasetService/DeleteDataset", {"kind": "DATASET", "name": name})
    expect(page.get_by_role("alert")).to_have_text("This version was removed.")
    expect(train).to_have_count(0)
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)
    page.get_by_role("link", name="Data sets").click()
    expect(page.get_by_role("heading", name="Data sets")).to_be_visible()
    expect(page.get_by_label(f"Delete {name}")).to_have_count(0)


def test_a_version_that_is_not_there_says_so(page: Page, lab: Lab) -> None:
    """And a name without versions says how to push one."""
    page.goto(f"{lab.url}/data/nothing/abcd1234")
    expect(page.get_by_role("alert")).to_contain_text("nothing")
    page.goto(f"{lab.url}/data/nothing")
    expect(page.get_by_text("yard data push DIR --name nothing")).to_be_visible()


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_look_at_data(browser: Browser, lab: Lab, pictures: Path, scheme: str, width: int) -> None:
    """Axe has nothing against it, and nothing is wider than the window."""
    name, version = push(lab, "n" * 64).split("@")
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    for path in ("/data", f"/data/{name}", f"/data/{name}/{version}"):
        page.goto(f"{lab.url}{path}")
        expect(page.get_by_role("link", name=re.compile("^Train on n")).first).to_be_visible()
        expect(page.get_by_text("live", exact=True)).to_be_visible()
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=f"{pictures}{path.count('/')}.png", full_page=True)
    context.close()
