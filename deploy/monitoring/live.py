#!/usr/bin/env python3
"""A real Prometheus scrapes a real cluster, encrypted and with a viewer's token, and every panel's query has an answer.

Usage: live.py PROMETHEUS BIN_DIR: the folder with the programs and libfake_nvml.so, which stands for a driver.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dashboard import RULES, Query, metrics, queries

# More than any step takes, on a machine that does much else.
PATIENCE = 120.0
GPU = {"name": "NVIDIA GeForce RTX 4090", "uuid": "GPU-40900000-0000-4000-8000-000000000000", "memory_total_mib": 24564,
       "memory_used_mib": 364, "utilization_percent": 40, "temperature_celsius": 61, "power_milliwatts": 180000,
       "compute_capability": [8, 9], "throttle_reasons": 32}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Cluster:
    """Scheduler, agent and Prometheus in a folder of their own."""

    def __init__(self, folder: Path, programs: Path, prometheus: Path) -> None:
        self.folder = folder
        self.programs = programs
        self.prometheus = prometheus
        self.port, self.agent_port, self.prometheus_port = free_port(), free_port(), free_port()
        self.server = f"https://127.0.0.1:{self.port}"
        self.environment = {**os.environ, "HOME": str(folder)}
        self.running: list[subprocess.Popen[bytes]] = []

    def show(self, gpu: dict[str, Any]) -> None:
        """Says what the GPU is and does from now on."""
        draft = self.folder / "gpus.new"
        draft.write_text(json.dumps({"driver": "580.95.05", "gpus": [gpu]}))
        draft.rename(self.folder / "gpus.json")

    def start(self, name: str, command: list[str], **variables: str) -> None:
        """Starts a program whose log is a file of its name."""
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen(command, env={**self.environment, **variables}, stdout=log, stderr=log)
        self.running.append(process)

    def stop(self) -> None:
        """Ends what was started, the newest first."""
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.running):
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()

    def yard(self, *words: str) -> str:
        """What `yard` prints; it has logged in before."""
        command = [str(self.programs / "yard"), *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def until(self, what: str, condition: Any) -> Any:
        """Asks again and again until there is an answer."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for process in self.running:
                if process.poll() is not None:
                    self.fail(f"{process.args!r} has ended")
            with contextlib.suppress(OSError, subprocess.CalledProcessError, urllib.error.URLError):
                if answer := condition():
                    return answer
            time.sleep(0.1)
        return self.fail(f"waited {PATIENCE:.0f} s in vain: {what}")

    def fail(self, why: str) -> None:
        """Ends with the last lines of every log."""
        for log in sorted(self.folder.glob("*.log")):
            print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-8:], sep="\n", file=sys.stderr)
        sys.exit(f"monitoring: {why}")

    def start_scheduler(self) -> None:
        """A scheduler that asks for tokens, an admin who has logged in, and a token for Prometheus."""
        data = self.folder / "scheduler"
        self.start("scheduler", [str(self.programs / "trainyard-scheduler"), "--listen", f"127.0.0.1:{self.port}",
                                 "--data-dir", str(data)], TRAINYARD_SCHEDULER__SECURITY="on")
        first_login = data / "first-login.txt"
        self.until("the scheduler's first login", first_login.exists)
        lines = first_login.read_text().splitlines()
        token = next(line for line in lines if "yard login" in line).split()[-1]
        self.until("yard login", lambda: self.yard("login", self.server, token))
        joining = next(line for line in lines if "agent join" in line).split()[-1]
        (self.folder / "join").write_text(joining)
        viewer = self.yard("token", "create", "--user", "monitor", "--role", "viewer").split()
        (self.folder / "token").write_text(next(word for word in viewer if word.startswith("ty1.")))
        shutil.copy(self.folder / ".config/trainyard/ca.pem", self.folder / "ca.pem")

    def start_agent(self) -> None:
        """An agent with a GPU that a library pretends, and a slot on the processors where a job trains."""
        self.yard("demo-data", str(self.folder / "data/shapes"))
        self.show(GPU)
        self.start("agent", [str(self.programs / "trainyard-agent")],
                   TRAINYARD_AGENT__NAME="lab-1", TRAINYARD_AGENT__SCHEDULER=self.server,
                   TRAINYARD_AGENT__JOIN_TOKEN_FILE=str(self.folder / "join"),
                   TRAINYARD_AGENT__DATA_DIR=str(self.folder / "agent"),
                   TRAINYARD_AGENT__DATA_ROOTS=str(self.folder / "data"), TRAINYARD_AGENT__CPU_SLOTS="1",
                   TRAINYARD_AGENT__METRICS_LISTEN=f"127.0.0.1:{self.agent_port}",
                   TRAINYARD_AGENT__NVML_LIBRARY=str(self.programs / "libfake_nvml.so"),
                   FAKE_NVML_STATE=str(self.folder / "gpus.json"))
        self.until("the agent is connected", lambda: '"lab-1"' in self.yard("agents", "-o", "json"))
        self.yard("train", str(self.folder / "data/shapes/data.yaml"), "--model", "yolov8n", "--device", "cpu",
                  "--imgsz", "64", "--batch", "16", "--workers", "1", "--epochs", "500")

    def start_prometheus(self) -> None:
        """Prometheus as the document sets it up, but in more of a hurry."""
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "trainyard-scheduler", "scheme": "https",
                 "tls_config": {"ca_file": "ca.pem"}, "authorization": {"credentials_file": "token"},
                 "static_configs": [{"targets": [f"127.0.0.1:{self.port}"]}]},
                {"job_name": "trainyard-agents", "static_configs": [{"targets": [f"127.0.0.1:{self.agent_port}"]}]},
            ],
        }
        (self.folder / "prometheus.yml").write_text(json.dumps(config))
        self.start("prometheus", [str(self.prometheus), f"--config.file={self.folder}/prometheus.yml",
                                  f"--storage.tsdb.path={self.folder}/series",
                                  f"--web.listen-address=127.0.0.1:{self.prometheus_port}"])

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of Prometheus' HTTP API."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]


def unanswered(cluster: Cluster, asked: list[Query]) -> list[Query]:
    """The queries that find no series now."""
    return [query for query in asked if not cluster.ask("query", query=query.expression)["result"]]


def check(cluster: Cluster) -> None:
    """Targets are up, rules are taken, queries have answers, and what rules name is exposed."""
    def all_up() -> bool:
        targets = cluster.ask("targets")["activeTargets"]
        return len(targets) == 2 and all(target["health"] == "up" for target in targets)

    cluster.until("both pages are scraped", all_up)
    # An error that the driver tells is one that came after the agent did.
    cluster.show({**GPU, "xids": [43]})
    left = queries()

    def all_answered() -> bool:
        left[:] = unanswered(cluster, left)
        return not left

    end = time.monotonic() + PATIENCE
    while not all_answered():
        if time.monotonic() > end:
            cluster.fail("no answer for " + "; ".join(f"{query.panel}: {query.expression}" for query in left))
        time.sleep(0.2)
    exposed = set(cluster.ask("label/__name__/values"))
    missing = metrics(RULES.read_text()) - exposed
    if missing:
        cluster.fail(f"alerts name {sorted(missing)}, which no page has")
    rules = [rule for group in cluster.ask("rules")["groups"] for rule in group["rules"]]
    sick = [rule["name"] for rule in rules if rule["health"] not in ("ok", "unknown")]
    if sick or not rules:
        cluster.fail(f"Prometheus cannot evaluate {sick or 'any rule'}")
    print(f"monitoring: Prometheus scrapes an encrypted cluster; {len(rules)} alerts and {len(queries())} queries work")


@contextlib.contextmanager
def started(folder: Path, programs: Path, prometheus: Path) -> Iterator[Cluster]:
    """A cluster that goes, whatever happens."""
    cluster = Cluster(folder, programs, prometheus)
    try:
        cluster.start_scheduler()
        cluster.start_agent()
        cluster.start_prometheus()
        yield cluster
    finally:
        cluster.stop()


def main() -> None:
    """Starts all, checks all, stops all."""
    prometheus, programs = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as folder, started(Path(folder), programs, prometheus) as cluster:
        check(cluster)


main()
