"""Clusters that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test finds what the user of this machine has logged in to."""
    for name in ("YARD_SERVER", "YARD_TOKEN", "YARD_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that asks nobody who they are."""
    cluster = Cluster(tmp_path_factory.mktemp("open"))
    try:
        cluster.start_scheduler()
        cluster.start_agent()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with encryption and tokens; its agent has joined."""
    cluster = Cluster(tmp_path_factory.mktemp("secure"), secure=True)
    try:
        cluster.start_scheduler()
        cluster.start_agent()
        yield cluster
    finally:
        cluster.stop()
