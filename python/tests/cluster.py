"""A real cluster for tests: a scheduler with its own Redis, and an agent that trains on the CPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from trainyard import Client, TrainyardError

ROOT: Final = Path(__file__).resolve().parents[2]
#: Where the programs are: the tests' own profile unless somebody says otherwise.
PROGRAMS: Final = Path(os.environ.get("TRAINYARD_PROGRAMS") or ROOT / "target" / "debug").resolve()
#: Seconds that anything may take before a test gives up.
PATIENCE: Final = 120.0
_POLL: Final = 0.02
#: A job that takes about a second on one core.
TINY: Final[dict[str, Any]] = {"device": "cpu", "imgsz": 64, "batch": 8, "workers": 1}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def until(question: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Asks until the answer is yes."""
    deadline = time.monotonic() + PATIENCE
    while not question():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(_POLL)


def yard(*arguments: str | Path, config: Path) -> str:
    """What `yard` prints for a person whose settings lie in `config`."""
    environment = {"PATH": os.environ["PATH"], "XDG_CONFIG_HOME": str(config)}
    command = [PROGRAMS / "yard", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"yard {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


class Cluster:
    """Its processes and folders."""

    def __init__(self, folder: Path, *, secure: bool = False, redis_url: str = "") -> None:
        self.folder = folder
        self.secure = secure
        self.redis_url = redis_url
        self.address = f"127.0.0.1:{free_port()}"
        self.data = folder / "data" / "cells"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start_scheduler(self) -> None:
        """Starts the scheduler (again) on the same data and port, and waits until it leads or stands by."""
        settings = {
            "LISTEN": self.address,
            "DATA_DIR": str(self.folder / "scheduler"),
            "BLOB_DIR": str(self.folder.parent / "blobs") if self.redis_url else str(self.folder / "blobs"),
            "REDIS_URL": self.redis_url,
            "LEADER_LEASE": "1s",
            # Nobody is to be lost on a machine that is slow for a while.
            "LEASE": "60s",
            "HEARTBEAT": "1s",
            "POLICY": "fair",
            "SECURITY": "on" if self.secure else "off",
        }
        self._start("trainyard-scheduler", settings, "TRAINYARD_SCHEDULER__")
        until(self._answers, lambda: self._log("trainyard-scheduler"))

    def start_agent(self, scheduler: str = "") -> None:
        """Starts the agent and waits until the scheduler lists it. Makes the data set that jobs train on."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        yard("demo-data", self.data, "--train", "8", "--val", "4", "--size", "64", config=self.folder)
        settings = self._agent_settings()
        if self.secure:
            token = self.first_login("agent join")
            self._start("trainyard-agent", settings, "TRAINYARD_AGENT__", "join", self.address, token).wait()
        else:
            settings["SCHEDULER"] = scheduler or f"http://{self.address}"
        self._start("trainyard-agent", settings, "TRAINYARD_AGENT__")
        with self.client() as client:
            until(
                lambda: any(agent.state == "CONNECTED" for agent in client.agents()),
                lambda: self._log("trainyard-agent"),
            )

    def client(self) -> Client:
        """A client that may do everything."""
        token = self.first_login("yard login") if self.secure else None
        return Client(self.url, token=token)

    @property
    def url(self) -> str:
        """The address with its scheme."""
        return f"{'https' if self.secure else 'http'}://{self.address}"

    def first_login(self, of: str) -> str:
        """The token that the scheduler has made at its first start: of ``yard login`` or of ``agent join``."""
        lines = (self.folder / "scheduler" / "first-login.txt").read_text().splitlines()
        return next(line for line in lines if of in line).split()[-1]

    def kill(self, program: str = "trainyard-scheduler", sign: signal.Signals = signal.SIGKILL) -> None:
        """Ends a program, and waits until it is gone."""
        process = self._running.pop(program, None)
        if process is not None:
            process.send_signal(sign)
            process.wait()

    def pause(self) -> None:
        """Stops the scheduler where it is, and waits until no thread of it runs."""
        process = self._running["trainyard-scheduler"]
        process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{process.pid}/task")

        def is_stopped() -> bool:
            # proc(5): the state comes after the name in parentheses.
            stats = [(thread / "stat").read_text() for thread in threads.iterdir()]
            return all(stat.rpartition(") ")[2].startswith("T") for stat in stats)

        until(is_stopped, lambda: "the scheduler does not stop")

    def go_on(self) -> None:
        """Lets a scheduler that was paused go on."""
        self._running["trainyard-scheduler"].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends everything; the agent first, since it ends its trainers."""
        for program in ("trainyard-agent", "trainyard-scheduler"):
            self.kill(program, signal.SIGTERM)

    def _agent_settings(self) -> dict[str, str]:
        return {
            "NAME": "bench",
            "DATA_DIR": str(self.folder / "agent"),
            "TRAINER": str(PROGRAMS / "trainyard-trainer"),
            "CPU_SLOTS": "1",
            "DATA_ROOTS": str(self.data.parent),
            "METRICS_LISTEN": "",
        }

    def _start(self, program: str, settings: dict[str, str], prefix: str, *arguments: str) -> subprocess.Popen[bytes]:
        names = ("PATH", "HOME", "LD_LIBRARY_PATH", "OMP_WAIT_POLICY")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        environment |= {prefix + key: value for key, value in settings.items()}
        with (self.folder / f"{program}.log").open("ab") as log:
            command = [str(PROGRAMS / program), *arguments]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if not arguments:
            self._running[program] = process
        return process

    def _answers(self) -> bool:
        process = self._running["trainyard-scheduler"]
        assert process.poll() is None, self._log("trainyard-scheduler")
        if self.secure and not (self.folder / "scheduler" / "first-login.txt").exists():
            return False
        try:
            with self.client() as client:
                client.whoami()
        except TrainyardError:
            return False
        return True

    def _log(self, program: str) -> str:
        return (self.folder / f"{program}.log").read_text(errors="replace")
