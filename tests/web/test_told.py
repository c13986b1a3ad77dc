"""People who are told of their jobs, and what the link leads to."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trainer
from lab import PATIENCE, Lab, until
from playwright.sync_api import Page, expect
from test_job import bench

_WAITS = "{trainyard}:waits"


class Receiver(ThreadingHTTPServer):
    """What a webhook leads to: takes everything."""

    def __init__(self) -> None:
        self.calls: queue.Queue[dict[str, Any]] = queue.Queue()
        super().__init__(("127.0.0.1", 0), _Call)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Call(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.calls.put(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody who listens."""
    receiver = Receiver()
    yield receiver
    receiver.shutdown()
    receiver.server_close()


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Lab]:
    """A lab of its own, in whose store a test may write."""
    lab = bench(tmp_path)
    yield lab
    lab.stop()


def stored(lab: Lab, *command: str) -> str:
    """What the scheduler's own Redis answers."""
    (path,) = (lab.folder / "scheduler").rglob("*.sock")
    answer = subprocess.run(["redis-cli", "-s", str(path), *command], check=True, capture_output=True, text=True)
    return answer.stdout.strip()


def test_who_waits_for_too_long_is_told_and_the_link_shows_why(page: Page, yard: Lab, receiver: Receiver) -> None:
    """Once; the store is told that the time is over, since that takes ten minutes at least."""
    made = yard.call(
        "NotificationService/CreateWebhook",
        {"url": receiver.url, "kind": "JSON", "events": ["JOB_WAITING"]},
    )
    assert made["secret"]
    slow = {"epochs": 1000, "seed": trainer.SLOW}
    runs = [yard.submit(f"first-{number}", slow) for number in range(2)]
    job = yard.submit("waits <b>long</b>", slow)
    until(lambda: stored(yard, "HGET", _WAITS, job), lambda: yard.log("scheduler"))
    assert receiver.calls.empty()
    stored(yard, "HSET", _WAITS, job, "1")
    told = receiver.calls.get(timeout=PATIENCE)
    assert (told["event"], told["job"]["id"], told["job"]["state"]) == ("waiting", job, "QUEUED")
    assert told["url"].endswith(f"/jobs/{job}")
    page.goto(told["url"])
    expect(page.get_by_role("heading", name="waits <b>long</b>")).to_be_visible()
    expect(page.locator(".said")).to_contain_text(yard.call("JobService/GetJob", {"jobId": job})["waitingSentence"])
    for one in (job, *runs):
        yard.call("JobService/CancelJob", {"jobId": one})
    assert receiver.calls.empty()
