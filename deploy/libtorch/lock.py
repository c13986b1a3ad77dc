#!/usr/bin/env python3
"""Writes the lock files of libtorch, by pip's own resolution: python3 deploy/libtorch/lock.py 2.13.0

Each names the wheels whose libraries the trainer needs, with their SHA-256. What only Python needs is left out.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
# Any Python does: only the wheel of torch differs by it, and not in its libraries.
PYTHON = "3.11"
PLATFORMS = ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
PLATFORMS += [f"manylinux_2_{minor}_x86_64" for minor in range(5, 29)]
# What libtorch_cpu.so is linked against, although it uses no GPU.
CPU = {"torch", "nvidia-cuda-runtime", "nvidia-cuda-cupti"}


def options() -> list[str]:
    """How pip is told for which machines."""
    chosen = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    return chosen + [f"--platform={platform}" for platform in PLATFORMS]


def resolve(version: str) -> dict[str, tuple[str, str]]:
    """Version and hash of each wheel, by its project."""
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--target", work, "--report", str(report), *options(), f"torch=={version}"]
        subprocess.run(command, check=True)
        found = json.loads(report.read_text())["install"]
    return {
        item["metadata"]["name"].lower(): (
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in found
    }


def main() -> None:
    version = sys.argv[1]
    wheels = resolve(version)
    cuda = {name for name in wheels if name == "torch" or name.startswith("nvidia-")}
    for flavour, names in [("cpu", CPU), ("cu130", cuda)]:
        lines = [f"# libtorch {version} for {flavour}, Linux on x86-64. Written by deploy/libtorch/lock.py."]
        for name in sorted(names):
            lines.append(f"{name}=={wheels[name][0]} --hash=sha256:{wheels[name][1]}")
        (FOLDER / f"{flavour}.lock").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
