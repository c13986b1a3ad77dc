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
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trainer
from conftest import launched
from lab import MACHINES, PROGRAMS, ROOT, Lab
from playwright.sync_api import Browser, Page, sync_playwright

FOLDER: Final = Path(os.environ.get("TRAINYARD_PICTURES") or ROOT / "docs" / "images")
#: Epochs that are trained for real, and the seconds that they may take.
EPOCHS: Final = int(os.environ.get("TRAINYARD_PICTURES_EPOCHS") or 30)
PATIENCE: Final = 3600
#: Bytes of a picture at most.
MOST: Final = 150_000
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

    def end(self) -> None:
        """Before the machines end."""
        self.is_over.set()
        if self.is_alive():
            self.join()

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
    lab.start_agent("office", [], cpu_slots=1, **real)
    train = {"model": "yolov8n", "data": str(data), "epochs": EPOCHS, "imgsz": 160, "batch": 16, "workers": 1}
    job = submit(
        lab,
        "ada",
        "blood-cells-n",
        train | {"closeMosaic": EPOCHS // 3, "optimizer": "AdamW", "lr0": 0.002},
        {"device": "cpu"},
    )
    for user, name, model, kind, epochs in (
        ("ada", "blood-cells-m", "yolov8m", "4090", 1400),
        ("bob", "plates-l", "yolov8l", "4090", 1900),
        ("bob", "plates-s", "yolov8s", "5070", 1600),
        ("chen", "wheat-heads-x", "yolov8x", "4090", 4000),
        ("chen", "wheat-heads-m", "yolov8m", "5070", 2600),
        ("dana", "solar-panels-s", "yolov8s", "5070", 800),
    ):
        other = {"data": str(lab.data()), "epochs": epochs, "model": model, "seed": trainer.SLOW}
        submit(lab, user, name, other, {"gpuModels": [kind]})
    lab.call("ClusterService/ReserveGpus", {"agent": "desk-ada", "gpus": ["0"], "span": "14400s"})
    return job


def wait_for(lab: Lab, job: str, is_so: Callable[[dict[str, Any]], bool]) -> None:
    """Waits until something is so of a job that trains for real."""
    deadline = time.monotonic() + PATIENCE
    while not is_so(now := lab.call("JobService/GetJob", {"jobId": job})):
        assert now["state"] in ("QUEUED", "STARTING", "RUNNING"), now
        assert time.monotonic() < deadline, now
        time.sleep(2)


def draw(browser: Browser, page: Page, name: str) -> None:
    """Keeps what a page shows now."""
    painter = browser.new_page()
    png = base64.b64encode(page.screenshot()).decode()
    for quality in (0.92, 0.85, 0.75, 0.6, 0.5, 0.4, 0.3):
        small = base64.b64decode(painter.evaluate(_SMALLER, [png, quality]))
        if len(small) <= MOST:
            break
    painter.close()
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.webp").write_bytes(small)
    print(f"{FOLDER / name}.webp: {len(small)} bytes")


#: A view, and the part of it down to which it is drawn.
VIEWS: Final = {"page-cluster": "office", "page-job": "Pictures"}


def look(browser: Browser, address: str, name: str, *, is_all: bool) -> None:
    """Draws a view, as it is or in each theme and width."""
    for scheme in ("light", "dark") if is_all else ("light",):
        for width in (1440, 390) if is_all else (1440,):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            page.goto(address)
            last = page.get_by_role("region", name=VIEWS[name])
            last.scroll_into_view_if_needed()
            # Charts and pictures are there then.
            page.wait_for_timeout(4000)
            end = last.evaluate("part => part.getBoundingClientRect().bottom + scrollY")
            page.set_viewport_size({"width": width, "height": int(end) + 24})
            page.evaluate("scrollTo(0, 0)")
            page.wait_for_timeout(1500)
            draw(browser, page, f"{name}-{scheme}-{width}" if is_all else name)
            context.close()


def main() -> None:
    """Draws what the documents show; with `all`, in both themes and on a telephone as well."""
    is_all = "all" in sys.argv
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab = Lab(Path(folder))
        browser, gpus = launched(playwright), Gpus(lab)
        # Whoever ends this ends what it has started.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            job = start(lab)
            gpus.start()
            wait_for(lab, job, lambda now: now.get("progress", {}).get("epoch", 0) > EPOCHS * 0.7)
            look(browser, lab.url, "page-cluster", is_all=is_all)
            wait_for(lab, job, lambda now: now["state"] == "SUCCEEDED")
            look(browser, f"{lab.url}/jobs/{job}", "page-job", is_all=is_all)
        finally:
            gpus.end()
            browser.close()
            lab.stop()


if __name__ == "__main__":
    main()
