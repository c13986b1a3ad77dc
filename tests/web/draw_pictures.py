"""Draws the pictures of the page that the documents show, into docs/images: `python tests/web/draw_pictures.py`.

One machine trains for real, on its CPU. Of the others' GPUs a stand-in for NVML tells, and a trainer that learns
nothing trains on them. `TRAINYARD_PICTURES_DATA` is the data.yaml of another data set than drawn shapes, and
`TRAINYARD_PICTURES` another folder.
"""

from __future__ import annotations

import base64
import json
import math
import os
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

import trainer
from conftest import launched
from lab import MACHINES, PROGRAMS, ROOT, Lab
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

FOLDER: Final = Path(os.environ.get("TRAINYARD_PICTURES") or ROOT / "docs" / "images")
#: Epochs that are trained for real, and the seconds that they may take.
EPOCHS: Final = int(os.environ.get("TRAINYARD_PICTURES_EPOCHS") or 30)
PATIENCE: Final = 3600
#: Bytes of a picture at most.
MOST: Final = 150_000
SIZES: Final[dict[str, ViewportSize]] = {
    "": {"width": 1440, "height": 1150},
    "-phone": {"width": 390, "height": 844},
}

#: A PNG as WebP, by the browser itself.
_SMALLER: Final = """
async ([png, quality]) => {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").drawImage(image, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/webp", quality });
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}
"""


def submit(lab: Lab, user: str, name: str, train: dict[str, Any], resources: dict[str, Any]) -> str:
    """Queues a job of somebody; its id."""
    spec = {"name": name, "train": train, "resources": resources}
    headers = {"content-type": "application/json", "trainyard-user": user}
    body = json.dumps({"spec": spec}).encode()
    request = urllib.request.Request(f"{lab.url}/trainyard.v1.JobService/SubmitJob", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["jobId"])


class Gpus(threading.Thread):
    """Has the GPUs of the machines do what their jobs would have them do."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self.lab = lab
        self.is_over = threading.Event()

    def run(self) -> None:
        """Until it is over."""
        while not self.is_over.wait(2):
            busy = {
                one["uuid"]
                for agent in self.lab.call("ClusterService/ListAgents")["agents"]
                for one in agent.get("gpus", [])
                if one.get("jobId")
            }
            for name, gpus in MACHINES.items():
                self.lab.show_gpus(name, [self.shown(at, one, one["uuid"] in busy) for at, one in enumerate(gpus)])

    @staticmethod
    def shown(at: int, own: dict[str, Any], is_busy: bool) -> dict[str, Any]:
        """A GPU as it is now."""
        wave = math.sin(time.time() / 17 + at)
        if not is_busy:
            return own | {"utilization_percent": 0, "temperature_celsius": 34 + at, "power_milliwatts": 19_000}
        return own | {
            "utilization_percent": round(91 + 7 * wave),
            "temperature_celsius": round(63 + at + 3 * wave),
            "power_milliwatts": round(1000 * (own["memory_total_mib"] / 82 + 18 * wave)),
            "memory_used_mib": round(0.72 * own["memory_total_mib"]),
        }


def start(lab: Lab) -> str:
    """Starts machines and jobs; the job that trains for real."""
    lab.start_scheduler()
    text = f"#!{sys.executable}\n{Path(trainer.__file__).read_text()}"
    for name, gpus in MACHINES.items():
        lab.start_agent(name, gpus, trainer_text=text)
    data = Path(os.environ.get("TRAINYARD_PICTURES_DATA") or lab.data()).resolve()
    real = {"TRAINER": str(PROGRAMS / "trainyard-trainer"), "CONFINE_TRAINERS": "true", "DATA_ROOTS": str(data.parent)}
    lab.start_agent("attic", [], cpu_slots=1, **real)
    Gpus(lab).start()
    train = {"model": "yolov8n", "data": str(data), "epochs": EPOCHS, "imgsz": 160, "batch": 16, "workers": 1}
    job = submit(
        lab,
        "ada",
        "blood-cells-n",
        train | {"closeMosaic": EPOCHS // 3, "optimizer": "AdamW", "lr0": 0.002},
        {"device": "cpu"},
    )
    for user, name, model, kind, epochs in (
        ("ada", "blood-cells-m", "yolov8m", "4090", 600),
        ("bob", "plates-l", "yolov8l", "4090", 900),
        ("bob", "plates-s", "yolov8s", "5070", 700),
        ("chen", "wheat-heads-x", "yolov8x", "4090", 2000),
        ("chen", "wheat-heads-m", "yolov8m", "5070", 1300),
        ("dana", "solar-panels-s", "yolov8s", "5070", 800),
    ):
        other = {"data": str(lab.data()), "epochs": epochs, "model": model, "seed": trainer.SLOW}
        submit(lab, user, name, other, {"gpuModels": [kind]})
    lab.call("ClusterService/ReserveGpus", {"agent": "desk-ada", "gpus": ["0"], "span": "14400s"})
    return job


def draw(browser: Browser, page: Page, name: str) -> None:
    """Keeps what a page shows now."""
    painter = browser.new_page()
    png = base64.b64encode(page.screenshot()).decode()
    for quality in (0.92, 0.85, 0.75, 0.6):
        small = base64.b64decode(painter.evaluate(_SMALLER, [png, quality]))
        if len(small) <= MOST:
            break
    painter.close()
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.webp").write_bytes(small)
    print(f"{FOLDER / name}.webp: {len(small)} bytes")


def draw_all(browser: Browser, lab: Lab, job: str, schemes: list[str]) -> None:
    """The cluster and a job, at each size."""
    views = {"page-cluster": "/", "page-queue": "/jobs", "page-job": f"/jobs/{job}"}
    for scheme in schemes:
        for suffix, size in SIZES.items():
            context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
            page = context.new_page()
            for name, path in views.items():
                page.goto(lab.url + path)
                page.get_by_text("live", exact=True).wait_for()
                if name == "page-job":
                    page.locator(".chart canvas").nth(5).wait_for()
                    page.get_by_role("region", name="Pictures").scroll_into_view_if_needed()
                    page.wait_for_function(
                        "() => [...document.querySelectorAll('.thumbs img')].every((one) => one.complete)"
                    )
                    page.evaluate("scrollTo(0, 0)")
                page.wait_for_load_state("networkidle") if name == "page-queue" else page.wait_for_timeout(1500)
                draw(browser, page, name + suffix + ("" if scheme == "light" else f"-{scheme}"))
            context.close()


def main() -> None:
    """Draws what the documents show; everything with `all`."""
    schemes = ["light", "dark"] if "all" in sys.argv else ["light"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab = Lab(Path(folder))
        browser = launched(playwright)
        try:
            job = start(lab)
            deadline = time.monotonic() + PATIENCE
            while (state := lab.call("JobService/GetJob", {"jobId": job}))["state"] != "SUCCEEDED":
                assert state["state"] in ("QUEUED", "STARTING", "RUNNING"), state
                assert time.monotonic() < deadline, state
                time.sleep(2)
            draw_all(browser, lab, job, schemes)
        finally:
            browser.close()
            lab.stop()


if __name__ == "__main__":
    main()
