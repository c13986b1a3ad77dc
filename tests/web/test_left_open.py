"""Pages that stay open: many at once, for long, and while another scheduler takes over."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trainer
from conftest import Complaints
from lab import Lab, gpu, until
from playwright.sync_api import Browser, BrowserContext, Page, expect
from test_cluster import machine
from test_job import bench, chart

#: Pages at once.
_MANY = 50
#: Bytes by which a page may grow while it shows the same.
_GROWTH = 2_000_000


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose trainers tell much."""
    lab = bench(tmp_path_factory.mktemp("left-open"))
    yield lab
    lab.stop()


def test_fifty_open_pages_are_all_told(browser: Browser, lab: Lab) -> None:
    """Of what one orders, and of what another one takes back."""
    contexts = [browser.new_context() for _ in range(_MANY)]
    pages = [context.new_page() for context in contexts]
    for page in pages:
        page.goto(lab.url)
    for page in pages:
        expect(page.get_by_text("live", exact=True)).to_be_visible()
    lab.call("ClusterService/DrainAgent", {"agent": "desk-ada"})
    for page in pages:
        expect(machine(page, "desk-ada").locator("header .pill")).to_have_text("drained")
    machine(pages[-1], "desk-ada").get_by_role("button", name="Resume").click()
    for page in pages:
        expect(machine(page, "desk-ada").locator("header .pill")).to_have_count(0)
    for context in contexts:
        context.close()


def heap(context: BrowserContext, page: Page) -> int:
    """Bytes of a page's objects that are still needed."""
    session = context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    size = int(session.send("Runtime.getHeapUsage")["usedSize"])
    session.detach()
    return size


#: Keeps the page's stream where the test can speak by it.
_KEEP_STREAM = """
const Real = EventSource;
window.EventSource = class extends Real {
  constructor(address) {
    super(address);
    window.stream = this;
  }
};
"""
#: A minute of the cluster's stream: what GPUs do has changed each second.
_MINUTE = """
([agents, minute]) => {
  for (let second = 0; second < 60; second += 1) {
    for (const agent of agents)
      for (const [at, gpu] of (agent.gpus || []).entries()) {
        gpu.utilizationRatio = ((minute * 60 + second + at) % 100) / 100;
        gpu.temperatureCelsius = 40 + ((minute + second) % 40);
      }
    window.stream.onmessage({ data: JSON.stringify({ cursor: `${minute}-${second}`, agents }) });
  }
}
"""


def test_a_page_of_the_cluster_keeps_its_memory_for_forty_minutes(
    page: Page, context: BrowserContext, lab: Lab
) -> None:
    """Of which the clock says that they pass: 2,400 events, and every timer of the page."""
    page.clock.install()
    page.add_init_script(_KEEP_STREAM)
    page.goto(lab.url)
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    agents = lab.call("ClusterService/ListAgents")["agents"]
    sizes = []
    for minute in range(40):
        page.evaluate(_MINUTE, [agents, minute])
        page.clock.run_for(60_000)
        if minute % 10 == 9:
            expect(machine(page, "lab-1").get_by_role("listitem").first).to_contain_text(
                f"{40 + (minute + 59) % 40} °C"
            )
            sizes.append(heap(context, page))
    print("bytes after 10, 20, 30 and 40 minutes:", *sizes, file=sys.stderr)
    assert max(sizes) - sizes[0] < _GROWTH, sizes


def test_a_page_of_a_job_keeps_its_memory_over_thousands_of_events(
    page: Page, context: BrowserContext, yard: Lab
) -> None:
    """Curves and log are bounded, however long it trains."""
    job = yard.submit("long", {"epochs": 900})
    page.goto(f"{yard.url}/jobs/{job}")
    chart(page, "Training losses")
    progress = page.locator(".far")
    sizes = []

    def epoch() -> int:
        return int(progress.inner_text().split("epoch ")[1].split(" ")[0])

    for least in (250, 500, 750):
        until(lambda least=least: epoch() >= least, progress.inner_text)  # type: ignore[misc]
        sizes.append(heap(context, page))
    expect(page.locator(".pill").first).to_have_text("succeeded")
    sizes.append(heap(context, page))
    print("bytes after 250, 500, 750 and 900 epochs:", *sizes, file=sys.stderr)
    assert max(sizes) - sizes[0] < _GROWTH, sizes


class Address(socketserver.ThreadingTCPServer):
    """An address that leads to one of several schedulers, as a lab's name does that follows the leader."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.port = 0
        super().__init__(("127.0.0.1", 0), _Passing)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """As browsers name it."""
        return f"http://localhost:{self.server_address[1]}"


class _Passing(socketserver.BaseRequestHandler):
    """Passes bytes on, both ways, until either side has ended."""

    server: Address

    def handle(self) -> None:
        try:
            there = socket.create_connection(("127.0.0.1", self.server.port))
        except OSError:
            return
        with there:
            back = threading.Thread(target=self.copy, args=(there, self.request), daemon=True)
            back.start()
            self.copy(self.request, there)
            back.join()

    @staticmethod
    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                target.sendall(part)
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Lab, Lab]]:
    """A leader and a standby on one Redis, and a machine that knows both."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (tmp_path / "redis").mkdir()
    command = ["redis-server", "--port", str(port), "--dir", str(tmp_path / "redis"), "--appendonly", "yes"]
    redis = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shared = {"REDIS_URL": f"redis://127.0.0.1:{port}/", "BLOB_DIR": str(tmp_path / "blobs")}
    labs = Lab(tmp_path / "one", settings=shared), Lab(tmp_path / "other", settings=shared)
    try:
        for lab in labs:
            lab.folder.mkdir()
            lab.settings["ADVERTISE"] = lab.url
            lab.start_scheduler(leads=lab is labs[0])
        text = f"#!{sys.executable}\n{Path(trainer.__file__).read_text()}"
        gpus = [gpu(1, "GeForce RTX 4090", 24564)]
        labs[0].start_agent("bench", gpus, trainer_text=text, SCHEDULER=",".join(lab.url for lab in labs))
        yield labs
    finally:
        for lab in labs:
            lab.stop()
        redis.send_signal(signal.SIGTERM)
        redis.wait()


#: Keeps the cursors of all events of jobs that come by the page's streams.
_COUNT_EVENTS = """
const Real = EventSource;
window.cursors = [];
window.EventSource = class extends Real {
  constructor(address) {
    super(address);
    this.addEventListener("message", (event) => {
      for (const { cursor } of JSON.parse(event.data).jobEvents || []) window.cursors.push(Number(cursor));
    });
  }
};
"""


def test_when_the_leader_is_killed_the_page_goes_on_with_the_next_one(
    page: Page, pair: tuple[Lab, Lab], complaints: Complaints
) -> None:
    """No event is missing, and none comes twice."""
    first, second = pair
    address = Address()
    address.port = first.port
    job = first.submit("goes-on", {"epochs": 1000, "seed": trainer.SLOW})
    page.add_init_script(_COUNT_EVENTS)
    page.goto(f"{address.url}/jobs/{job}")
    expect(page.locator(".far")).to_contain_text("epoch 2 / 1000")
    before = len(page.evaluate("cursors"))
    first.kill("scheduler")
    expect(page.get_by_text("reconnecting…")).to_be_visible()
    address.port = second.port
    until(lambda: second.answers("ClusterService/ListAgents"), lambda: second.log("scheduler"))
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    until(
        lambda: len(page.evaluate("cursors")) > before + 6,
        lambda: json.dumps(page.evaluate("cursors")),
    )
    cursors = page.evaluate("cursors")
    assert cursors == list(range(1, len(cursors) + 1))
    expect(page.locator(".pill").first).to_have_text("running")
    second.call("JobService/CancelJob", {"jobId": job})
    expect(page.locator(".pill").first).to_have_text("cancelled")
    complaints[:] = [text for text in complaints if "net::ERR_" not in text and "status of 503" not in text]
    address.shutdown()
    address.server_close()


def test_a_standby_leads_to_the_leader_and_shows_the_page_once_it_leads_itself(
    page: Page, pair: tuple[Lab, Lab], complaints: Complaints
) -> None:
    """The link shows the same view there."""
    first, second = pair
    page.goto(second.url)
    told = page.get_by_role("alert")
    expect(told).to_have_text(f"This scheduler stands by. The leader is {first.url}")
    # It knows of no machine, which is not that there are none.
    expect(page.locator(".figures")).to_have_count(0)
    page.goto(f"{second.url}/jobs?state=failed")
    link = told.get_by_role("link", name=first.url)
    expect(link).to_have_attribute("href", f"{first.url}/jobs?state=failed")
    first.kill("scheduler")
    expect(page.get_by_role("heading", name="Queue")).to_be_visible()
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    complaints[:] = [text for text in complaints if "net::ERR_" not in text and "status of 503" not in text]


@pytest.mark.parametrize("leader", ["itself", "", "javascript:alert(1)"])
def test_where_the_leader_is_at_no_other_address_it_is_only_asked_again(
    page: Page, lab: Lab, complaints: Complaints, leader: str
) -> None:
    """As behind one name for all schedulers, and while none leads yet."""
    where = {"leader": lab.url if leader == "itself" else leader}
    refusal = {
        "code": "unavailable",
        "message": "this scheduler stands by",
        "details": [{"type": "google.rpc.ErrorInfo", "debug": {"reason": "NOT_LEADER", "metadata": where}}],
    }
    page.route("**/live", lambda route: route.abort())
    page.route("**/*/ListAgents", lambda route: route.fulfill(status=503, json=refusal))
    page.goto(lab.url)
    expect(page.get_by_role("alert")).to_have_text("This scheduler stands by. It is asked again until one leads.")
    expect(page.get_by_role("alert").get_by_role("link")).to_have_count(0)
    expect(page.locator(".figures")).to_have_count(0)
    page.unroute("**/live")
    page.unroute("**/*/ListAgents")
    expect(machine(page, "lab-1")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    complaints[:] = [text for text in complaints if "net::ERR_" not in text and "status of 503" not in text]
