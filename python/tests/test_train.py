"""A job from its submission to its weights, on an open cluster."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import trainyard
from tests.cluster import TINY, Cluster
from trainyard import Client, InvalidArgument, JobState, LogLine, Metrics, NotFound, StateChange


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Client:
    return cluster.client()


@pytest.fixture(scope="module")
def trained(cluster: Cluster, client: Client) -> trainyard.Job:
    """A job that has succeeded."""
    return client.train(cluster.data / "data.yaml", epochs=3, labels={"of": "tests"}, **TINY).wait()


def test_a_job_trains_to_its_end_and_every_event_comes_once(trained: trainyard.Job) -> None:
    events = list(trained.history())
    assert [event.cursor for event in events] == list(range(1, len(events) + 1))
    states = [event.state for event in events if isinstance(event, StateChange)]
    assert states == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
    assert sum(isinstance(event, Metrics) and event.epoch_end for event in events) == 3
    assert any(isinstance(event, LogLine) and "8 images" in event.message for event in events)
    assert [event.cursor for event in trained.watch(cursor=len(events) - 1)] == [len(events)]
    assert trained.state is JobState.SUCCEEDED
    assert trained.created.tzinfo is not None
    assert trained.ended is not None


def test_metrics_are_rows_and_a_data_frame(trained: trainyard.Job) -> None:
    table = trained.metrics()
    assert [row["epoch"] for row in table] == [1, 2, 3]
    assert {"train/box_loss", "metrics/mAP50(B)", "images_per_second"} <= table[0].keys()
    frame = table.to_pandas()
    assert list(frame.index) == [1, 2, 3]
    assert frame["train/box_loss"].iloc[0] == table[0]["train/box_loss"]
    assert table.best()["metrics/mAP50-95(B)"] == frame["metrics/mAP50-95(B)"].max()
    assert "<td>3</td>" in table._repr_html_()


def test_a_download_is_what_was_trained(trained: trainyard.Job, tmp_path: Path) -> None:
    best = next(one for one in trained.artifacts() if one.name == "weights/best.safetensors")
    path = trained.download("best", tmp_path / "cells.safetensors")
    assert path == tmp_path / "cells.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == best.sha256
    # It is there, so that nothing is fetched; a folder keeps the name.
    assert trained.download("best", path) == path
    assert trained.download("weights/last.safetensors", tmp_path) == tmp_path / "last.safetensors"
    assert trained.download("results.csv", tmp_path / "new" / "x.csv").read_text().startswith("epoch,")
    assert not list(tmp_path.glob(".*.part"))


def test_a_download_that_broke_off_goes_on_and_a_damaged_one_is_noticed(trained: trainyard.Job, tmp_path: Path) -> None:
    best = next(one for one in trained.artifacts() if one.name == "weights/best.safetensors")
    whole = trained.download("best", tmp_path / "whole").read_bytes()
    part = tmp_path / f".{best.sha256[:16]}.part"
    part.write_bytes(whole[:1000])
    assert trained.download("best", tmp_path / "again").read_bytes() == whole
    part.write_bytes(b"x" * 1000)
    with pytest.raises(trainyard.DamagedDownload, match="nothing was kept, try again"):
        trained.download("best", tmp_path / "damaged")
    assert trained.download("best", tmp_path / "damaged").read_bytes() == whole


def test_a_file_that_is_in_the_way_stays(trained: trainyard.Job, tmp_path: Path) -> None:
    mine = tmp_path / "best.safetensors"
    mine.write_text("mine")
    with pytest.raises(InvalidArgument, match="is there with other content; give another, or `overwrite=True`"):
        trained.download("best", tmp_path)
    assert mine.read_text() == "mine"
    with pytest.raises(InvalidArgument, match=r"path: .*best.safetensors.* cannot be written: .*; give another"):
        trained.download("best", mine / "below.safetensors")
    assert trained.download("best", tmp_path, overwrite=True).stat().st_size > 4
    with pytest.raises(NotFound, match="has no artifact `worst`; it has "):
        trained.download("worst", tmp_path)


def test_jobs_are_found_by_what_they_have(client: Client, trained: trainyard.Job) -> None:
    assert client.job(trained.id[:13]) == trained
    assert trained in client.jobs(states=["SUCCEEDED"], labels={"of": "tests"}, name_prefix="cell", limit=None)
    assert client.jobs(states=[JobState.FAILED], labels={"of": "tests"}) == []
    assert len(client.jobs(limit=1)) == 1
    html = client.jobs()._repr_html_()
    assert trained.id in html
    assert "SUCCEEDED" in html
    assert "epoch 3/3" in trained.progress()
    assert "epoch 3/3" in repr(trained)


def test_agents_are_what_the_cluster_has(client: Client) -> None:
    [agent] = client.agents()
    assert (agent.name, agent.state, agent.cpu_slots, agent.gpus) == ("bench", "CONNECTED", 1, [])
    assert "bench" in client.agents()._repr_html_()


def test_a_job_is_cancelled_and_retried_and_its_failure_is_an_exception(cluster: Cluster, client: Client) -> None:
    job = client.train(cluster.data, name="long", epochs=1000, **TINY)
    for event in job.watch():
        if isinstance(event, StateChange) and event.state is JobState.RUNNING:
            break
    assert job.cancel().cancel().id == job.id
    with pytest.raises(trainyard.JobFailed, match=f"job {job.id} was cancelled: .*`yard logs {job.id}`") as raised:
        job.wait()
    assert (raised.value.job_id, raised.value.state) == (job.id, "CANCELLED")
    assert job.wait(check=False).state is JobState.CANCELLED
    with pytest.raises(NotFound, match="has no artifacts"):
        job.download("best")
    assert not job.retry().known_state.is_final
    job.cancel()


def test_a_submission_that_is_only_checked_queues_nothing(cluster: Cluster, client: Client) -> None:
    before = len(client.jobs(limit=None))
    client.check(cluster.data, epochs=5)
    with pytest.raises(InvalidArgument):
        client.check(cluster.data, epochs=0)
    assert len(client.jobs(limit=None)) == before
