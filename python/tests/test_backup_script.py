"""The nightly backup of docs/how-to/back-up-and-restore.md: what comes of it when a pass fails. Copying itself is
rsync's, and the restore is a drill of tests/tests/scenarios/backup.rs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from build_parts.version import ROOT

PAGE = ROOT / "docs" / "how-to" / "back-up-and-restore.md"
#: Notes the call, and ends with the next code of the file `codes`.
RSYNC = """#!/bin/bash
echo "rsync $*" >>"$NIGHT/log"
code=$(head -n 1 "$NIGHT/codes"); sed -i 1d "$NIGHT/codes"
exit "${code:-0}"
"""
SYSTEMCTL = """#!/bin/bash
echo "$*" >>"$NIGHT/log"
"""


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A folder with programs in the place of those that a test cannot have: a service, and a file that goes in time."""
    for name, text in (("rsync", RSYNC), ("systemctl", SYSTEMCTL)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    return tmp_path


def _back_up(night: Path, *codes: int) -> tuple[int, list[str]]:
    (night / "codes").write_text("".join(f"{code}\n" for code in codes))
    (night / "log").write_text("")
    script = subprocess.run(
        [ROOT / "deploy" / "documented.sh", PAGE, "backup"], capture_output=True, text=True, check=True
    ).stdout
    environment = {"PATH": f"{night}/bin:{os.environ['PATH']}", "NIGHT": str(night)}
    done = subprocess.run(["bash", "-c", script], env=environment, check=False)
    return done.returncode, (night / "log").read_text().splitlines()


PASS = "rsync -a --delete /var/lib/trainyard/scheduler/ /backup/trainyard/"
STOP, START = "stop trainyard-scheduler", "start trainyard-scheduler"
CONFIGURATION = "rsync -a /etc/trainyard /backup/trainyard.etc/"
WHOLE = [PASS, STOP, PASS, CONFIGURATION, START]


def test_a_file_that_goes_during_the_first_pass_is_no_failure(night: Path) -> None:
    assert _back_up(night) == (0, WHOLE)
    assert _back_up(night, 24) == (0, WHOLE)


def test_a_backup_that_cannot_be_written_stops_nothing(night: Path) -> None:
    code, log = _back_up(night, 11)
    assert (code != 0, log) == (True, [PASS])


@pytest.mark.parametrize("code", [23, 24])
def test_the_scheduler_is_started_again_whatever_the_second_pass_says(night: Path, code: int) -> None:
    assert _back_up(night, 0, code) == (code, [PASS, STOP, PASS, START])
