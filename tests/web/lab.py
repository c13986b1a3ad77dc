"""A lab for tests of the page: a real scheduler and real agents, with GPUs that a stand-in for NVML tells of."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

ROOT: Final = Path(__file__).resolve().parents[2]
#: Where the programs are: the tests' own profile unless somebody says otherwise.
PROGRAMS: Final = Path(os.environ.get("TRAINYARD_PROGRAMS") or ROOT / "target" / "debug").resolve()
#: Seconds that anything may take before a test gives up.
PATIENCE: Final = 60.0
_POLL: Final = 0.05
T = TypeVar("T")

#: What a trainer tells first, and then again and again; see `proto/types/src/trainer.rs`.
_STARTED: Final = {
    "type": "started",
    "parameters": 3011043,
    "train_images": 800,
    "val_images": 80,
    "classes": ["cell"],
    "epochs": 40,
    "batch_size": 16,
    "first_epoch": 1,
    "device": "cuda:0",
    "precision": "bf16",
    "libtorch": "2.13.0",
}
_STEP: Final = {
    "type": "step",
    "epoch": "$epoch",
    "batch": "$batch",
    "batches": 50,
    "images_per_second": 212.4,
    "loader_wait_ratio": 0.02,
    "metrics": {"train/box_loss": 1.2},
}


def _said(event: dict[str, Any]) -> str:
    """How the shell says an event: numbers stand where their names did."""
    text = json.dumps({"v": 1, "time": "$(date +%s)000"} | event)
    for number in ("$(date +%s)000", "$epoch", "$batch"):
        text = text.replace(f'"{number}"', number)
    escaped = text.replace('"', '\\"')
    return f'echo "{escaped}" > "/proc/self/fd/$fd"'


#: Passes the self-test, then trains for as long as it is let, and tells how far it is.
_TRAINER: Final = f"""#!/bin/sh
[ "$1" = self-test ] && {{ echo '{{"ok":true,"libtorch":"2.13.0"}}'; exit 0; }}
[ "$1" = train ] || exit 64
while [ $# -gt 0 ]; do
  case $1 in --events-fd) fd=$2; shift;; esac
  shift
done
trap 'exit 75' TERM
{_said(_STARTED)}
epoch=1
while :; do
  for batch in 10 20 30 40 50; do
    {_said(_STEP)}
    sleep 1 & wait $!
  done
  epoch=$((epoch % 39 + 1))
done
"""


def gpu(number: int, name: str, memory_mib: int, **more: Any) -> dict[str, Any]:
    """A GPU as the stand-in for NVML reads it; see tests/fake-nvml."""
    return {
        "name": f"NVIDIA {name}",
        "uuid": f"GPU-{number:08x}-0000-4000-8000-000000000000",
        "memory_total_mib": memory_mib,
        "memory_used_mib": 400,
        "compute_capability": [8, 9],
        **more,
    }


#: Eight GPUs of three models, on three machines.
MACHINES: Final[dict[str, list[dict[str, Any]]]] = {
    "lab-1": [gpu(number, "GeForce RTX 4090", 24564) for number in range(1, 5)],
    "lab-2": [gpu(number, "GeForce RTX 5070", 12227, memory_used_mib=227) for number in (5, 6)],
    "desk-ada": [gpu(7, "GeForce RTX 4060", 8188), gpu(8, "GeForce RTX 4060", 8188)],
}


def until(question: Callable[[], T], otherwise: Callable[[], str]) -> T:
    """Asks until the answer is something; gives it."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := question()):
        assert time.monotonic() < deadline, otherwise()
        time.sleep(_POLL)
    return answer


class Lab:
    """Its processes and folders."""

    def __init__(self, folder: Path, *, secure: bool = False, settings: dict[str, str] | None = None) -> None:
        """`settings`: further ones of the scheduler."""
        self.folder = folder
        self.secure = secure
        self.settings = dict(settings or {})
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port: int = listener.getsockname()[1]
        self.url = f"{'https' if secure else 'http'}://localhost:{self.port}"
        self.token = ""
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start_scheduler(self, *, leads: bool = True) -> None:
        """Starts the scheduler (again) on the same data and port, and waits until it leads, or answers at least."""
        settings = {
            "LISTEN": f"127.0.0.1:{self.port}",
            "DATA_DIR": str(self.folder / "scheduler"),
            "LEADER_LEASE": "1s",
            "LEASE": "60s",
            "HEARTBEAT": "1s",
            "POLICY": "fair",
            "SECURITY": "on" if self.secure else "off",
        } | self.settings
        self._start("scheduler", "trainyard-scheduler", settings, "TRAINYARD_SCHEDULER__")
        if self.secure:
            self.token = until(lambda: self._first_token("yard login"), lambda: self.log("scheduler"))
        method = "ClusterService/ListAgents" if leads else "JobService/ListJobs"
        until(lambda: self.answers(method), lambda: self.log("scheduler"))

    def start_agent(
        self,
        name: str,
        gpus: list[dict[str, Any]],
        cpu_slots: int = 0,
        trainer_text: str = _TRAINER,
        **more: str,
    ) -> None:
        """Starts a machine with such GPUs and trainer, and waits until it is connected."""
        self.show_gpus(name, gpus)
        trainer = self.folder / f"{name}-trainer"
        trainer.write_text(trainer_text)
        trainer.chmod(0o755)
        settings = {
            "NAME": name,
            "SCHEDULER": self.url,
            "DATA_DIR": str(self.folder / name),
            "TRAINER": str(trainer),
            "CPU_SLOTS": str(cpu_slots),
            "DATA_ROOTS": str(self.data().parent),
            "METRICS_LISTEN": "",
            "NVML_LIBRARY": str(PROGRAMS / "libfake_nvml.so"),
            # The trainer is a shell script.
            "CONFINE_TRAINERS": "false",
        } | more
        os.environ["FAKE_NVML_STATE"] = str(self.folder / f"{name}.json")
        self._start(name, "trainyard-agent", settings, "TRAINYARD_AGENT__")
        until(
            lambda: self.machine(name).get("state") == "CONNECTED",
            lambda: self.log(name),
        )

    def show_gpus(self, name: str, gpus: list[dict[str, Any]]) -> None:
        """What the GPUs of a machine are and do from now on."""
        new = self.folder / f"{name}.new"
        new.write_text(json.dumps({"gpus": gpus}))
        new.rename(self.folder / f"{name}.json")

    def call(self, method: str, message: dict[str, Any] | None = None, token: str = "") -> Any:
        """Calls a method of the API, as JSON."""
        body = json.dumps(message or {}).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/trainyard.v1.{method}", body, headers)
        if self.secure:
            request.add_header("authorization", f"Bearer {token or self.token}")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(request, context=context, timeout=PATIENCE) as answer:
            return json.load(answer)

    def machine(self, name: str) -> dict[str, Any]:
        """A machine as the API has it; empty where it is not there."""
        agents = self.call("ClusterService/ListAgents").get("agents", [])
        return next((agent for agent in agents if agent["name"] == name), {})

    def submit(self, name: str, train: dict[str, Any] | None = None, **resources: Any) -> str:
        """Queues a job; its id."""
        usual = {
            "model": "yolov8s",
            "data": str(self.data()),
            "epochs": 40,
            "imgsz": 640,
        }
        spec = {"name": name, "train": usual | (train or {}), "resources": resources}
        return str(self.call("JobService/SubmitJob", {"spec": spec})["jobId"])

    def data(self) -> Path:
        """A data set that is there."""
        path = self.folder / "data" / "cells" / "data.yaml"
        if not path.exists():
            command = [
                str(PROGRAMS / "yard"),
                "demo-data",
                str(path.parent),
                "--train",
                "8",
                "--val",
                "4",
                "--size",
                "64",
            ]
            subprocess.run(command, check=True, capture_output=True)
        return path

    def log(self, name: str) -> str:
        """What a program has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def kill(self, name: str, sign: signal.Signals = signal.SIGKILL) -> None:
        """Ends a program, and waits until it is gone."""
        process = self._running.pop(name, None)
        if process is not None:
            process.send_signal(sign)
            process.wait()

    def stop(self) -> None:
        """Ends everything; agents first, since they end their trainers."""
        for name in sorted(self._running, key=lambda name: name == "scheduler"):
            self.kill(name, signal.SIGTERM)

    def _first_token(self, of: str) -> str:
        file = self.folder / "scheduler" / "first-login.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        return next((line.split()[-1] for line in lines if of in line), "")

    def process(self, name: str) -> int:
        """The id of a program's process."""
        return self._running[name].pid

    def answers(self, method: str) -> bool:
        """Whether the scheduler answers a method: a standby does not answer all of them."""
        assert self._running["scheduler"].poll() is None, self.log("scheduler")
        try:
            self.call(method)
        except OSError:
            return False
        return True

    def _start(self, name: str, program: str, settings: dict[str, str], prefix: str) -> None:
        names = ("PATH", "HOME", "FAKE_NVML_STATE")
        environment = {key: os.environ[key] for key in names if key in os.environ}
        environment |= {key: value for key, value in os.environ.items() if key == "TRAINYARD_WEB_DIR"}
        environment |= {prefix + key: value for key, value in settings.items()}
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [PROGRAMS / program],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
