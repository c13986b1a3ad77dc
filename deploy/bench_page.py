#!/usr/bin/env python3
"""How fast the page is painted, and what fifty open pages cost the scheduler; `name value unit` lines.

Browser and scheduler are on this machine, with three machines of eight GPUs behind it that tell of themselves once a
second. The first argument is the folder of the programs.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = 50
PAINTS = 11
#: Seconds over which the scheduler's work is counted.
SECONDS = 20

PAINTED = """
() => new Promise((resolve) => {
  new PerformanceObserver((list) => {
    const paint = list.getEntriesByName("first-contentful-paint")[0];
    if (paint) resolve(paint.startTime);
  }).observe({ type: "paint", buffered: true });
})
"""


def cores(process: int) -> float:
    """How many cores a process uses."""

    def used() -> float:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, since = used(), time.monotonic()
    time.sleep(SECONDS)
    return (used() - before) / (time.monotonic() - since)


def main() -> None:
    os.environ["TRAINYARD_PROGRAMS"] = sys.argv[1]
    sys.path.insert(0, str(ROOT / "tests" / "web"))
    from conftest import launched
    from lab import MACHINES, Lab
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab = Lab(Path(folder))
        browser = launched(playwright)
        try:
            lab.start_scheduler()
            for name, gpus in MACHINES.items():
                lab.start_agent(name, gpus)
            paints, shown = [], []
            for _ in range(PAINTS):
                # Nothing is kept from one to the next.
                context = browser.new_context()
                page = context.new_page()
                page.goto(lab.url, wait_until="commit")
                paints.append(page.evaluate(PAINTED))
                page.locator(".tile").nth(7).wait_for()
                shown.append(page.evaluate("performance.now()"))
                context.close()
            # The first one starts the browser's own processes.
            print(f"page_first_paint_p50 {statistics.median(paints[1:]):.0f} ms", flush=True)
            print(f"page_cluster_shown_p50 {statistics.median(shown[1:]):.0f} ms", flush=True)
            idle = cores(lab.process("scheduler"))
            pages = [browser.new_context().new_page() for _ in range(PAGES)]
            for page in pages:
                page.goto(lab.url)
            for page in pages:
                page.get_by_text("live", exact=True).wait_for()
            busy = cores(lab.process("scheduler"))
            print(f"scheduler_cores_without_pages {idle:.4f} cores", flush=True)
            print(f"scheduler_cores_of_{PAGES}_pages {busy - idle:.4f} cores", flush=True)
        finally:
            browser.close()
            lab.stop()


main()
