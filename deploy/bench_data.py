#!/usr/bin/env python3
"""How fast a data set of 10,000 images goes to a scheduler and back, beside rsync; `name value unit` lines.

Scheduler and client are on this machine, with a directory as the store. rsync copies the same folder over its own
protocol to a daemon on this machine, and syncs each file's data, as the scheduler does.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGES = 10_000
IMAGE_BYTES = 25_000


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while True:
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} has ended")  # type: ignore[index]
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)


def make_images(yard: Path, folder: Path) -> int:
    """Images of 25 kB, each with a label file: one drawing, and behind its end bytes of their own."""
    seed = folder / "seed"
    subprocess.run([yard, "demo-data", seed], check=True, capture_output=True)
    image = next(seed.rglob("*.jpg")).read_bytes()
    data = folder / "cells"
    draw = random.Random(7)
    size = 0
    for split, count in (("train", IMAGES * 9 // 10), ("val", IMAGES // 10)):
        images, labels = data / "images" / split, data / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            content = image + draw.randbytes(max(16, IMAGE_BYTES - len(image)))
            (images / f"{number:05}.jpg").write_bytes(content)
            (labels / f"{number:05}.txt").write_text(f"0 0.5 0.5 0.{number % 9 + 1} 0.2\n")
            size += len(content)
    (data / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cell]\n")
    shutil.rmtree(seed)
    return size


def timed(command: list[str | Path], **more: object) -> float:
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stderr}")
    return time.monotonic() - began


def bench_yard(programs: Path, folder: Path, megabytes: float) -> dict[str, float]:
    port = free_port()
    settings = {
        "TRAINYARD_SCHEDULER__LISTEN": f"127.0.0.1:{port}",
        "TRAINYARD_SCHEDULER__DATA_DIR": str(folder / "scheduler"),
        "TRAINYARD_SCHEDULER__LOG": "error",
    }
    scheduler = subprocess.Popen([programs / "trainyard-scheduler"], env=os.environ | settings)
    try:
        wait_for(port, scheduler)
        yard: list[str | Path] = [programs / "yard", "--server", f"http://127.0.0.1:{port}"]
        env = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder)}
        push = [*yard, "data", "push", folder / "cells"]
        first = timed(push, env=env)
        again = timed(push, env=env)
        pull = timed([*yard, "data", "pull", "cells", "-d", folder / "pulled"], env=env)
    finally:
        scheduler.kill()
        scheduler.wait()
    return {"push": megabytes / first, "again": again, "pull": megabytes / pull}


def bench_rsync(folder: Path, megabytes: float) -> float:
    port = free_port()
    target = folder / "rsync"
    target.mkdir()
    config = folder / "rsyncd.conf"
    config.write_text(f"use chroot = no\n[bench]\npath = {target}\nread only = no\nuid = root\ngid = root\n")
    daemon = subprocess.Popen(
        ["rsync", "--daemon", "--no-detach", f"--config={config}", f"--port={port}", "--address=127.0.0.1"]
    )
    try:
        wait_for(port, daemon)
        took = timed(["rsync", "-a", "--fsync", f"{folder / 'cells'}/", f"rsync://127.0.0.1:{port}/bench/"])
    finally:
        daemon.kill()
        daemon.wait()
    return megabytes / took


def main() -> None:
    programs = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as name:
        folder = Path(name)
        megabytes = make_images(programs / "yard", folder) / 1e6
        figures = bench_yard(programs, folder, megabytes)
        print(f"data_push_10000_images {figures['push']:.1f} MB/s")
        print(f"data_push_unchanged {figures['again']:.2f} s")
        print(f"data_pull_10000_images {figures['pull']:.1f} MB/s")
        if shutil.which("rsync"):
            rsync = bench_rsync(folder, megabytes)
            print(f"rsync_push_10000_images {rsync:.1f} MB/s")
            print(f"data_push_to_rsync {figures['push'] / rsync:.2f} ratio")


if __name__ == "__main__":
    main()
