"""What is wrong is said on one line: which field, which value, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster, free_port
from trainyard import (
    Client,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Unavailable,
    UntrustedServer,
    Violation,
    _session,
)

TOKEN = f"ty1.{'0' * 32}.{'0' * 16}.{'0' * 64}"


def test_the_scheduler_names_every_bad_field_as_the_argument_is_called(cluster: Cluster) -> None:
    with pytest.raises(InvalidArgument) as raised:
        cluster.client().train(cluster.data, epochs=0, imgsz=33, min_vram_mib=10**9)
    fields = [violation.field for violation in raised.value.violations]
    assert fields[:2] == ["epochs", "imgsz"]
    assert raised.value.violations[0] == Violation("epochs", "is 0; use 1 to 100000")
    assert "epochs: is 0; use 1 to 100000; imgsz: is 33" in str(raised.value)
    assert raised.value.reason == "INVALID_FIELDS"


def test_a_job_that_is_not_there_is_an_exception_of_its_own(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match="there is no job `0") as raised:
        cluster.client().job("00000000-0000-0000-0000-000000000000")
    assert raised.value.reason == "JOB_NOT_FOUND"
    assert raised.value.metadata["job"].startswith("0000")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"epochs": "three"}, "epochs: is `'three'`; give a whole number from 0 on"),
    ({"epochs": -1}, "epochs: is `-1`; give a whole number from 0 on"),
    ({"epochs": True}, "epochs: is `True`; give a whole number from 0 on"),
    ({"amp": 1}, "amp: is `1`; give True or False"),
    ({"lr0": "fast"}, "lr0: is `'fast'`; give a number"),
    ({"epoch": 3}, "epoch: is no field of a training job; did you mean `epochs`?"),
    ({"imgsz": (640, 480)}, "imgsz: is `(640, 480)`; training images are square: give one whole number"),
    ({"device": "0,1"}, "device: is `0,1`; write gpu: which one is the scheduler's choice"),
    ({"device": "tpu"}, "device: is `tpu`; write gpu or cpu"),
    ({"model": "yolov8n.pt"}, "model: is `yolov8n.pt`, which is no file here, and nothing is downloaded"),
    ({"model": "/w/best.pt"}, "model: is `/w/best.pt`, a weights file whose name is no model's; use `pretrained`"),
    ({"pretrained": True}, "pretrained: is True; give the path of a weights file, or leave it out"),
    ({"priority": 1.5}, "priority: is `1.5`; give a whole number"),
    ({"labels": {"a": 1}}, "labels: is `1`; give a text"),
    ({"name": 7}, "name: is `7`; give a text"),
    ({"gpu_models": [4090]}, "gpu_models: is `4090`; give a text"),
    ({"time_limit": "1h"}, "time_limit: is `'1h'`; give seconds, or a `datetime.timedelta`"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG)
def test_what_cannot_be_sent_is_refused_here(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        Client("127.0.0.1:1").train("/data/cells/data.yaml", **arguments)
    assert str(raised.value).startswith(text)
    assert "\n" not in str(raised.value)
    assert raised.value.violations[0].field == text.partition(":")[0]


def test_several_wrong_arguments_are_told_together() -> None:
    with pytest.raises(InvalidArgument, match=r"^2 fields are wrong: epochs: .*; lr0: ") as raised:
        Client("127.0.0.1:1").train("/data/cells/data.yaml", epochs="x", lr0="y")  # type: ignore[arg-type]
    assert len(raised.value.violations) == 2


def test_a_folder_stands_for_its_only_description(tmp_path: Path) -> None:
    client = Client("127.0.0.1:1")
    with pytest.raises(InvalidArgument, match=r"is a folder without a data\.yaml: it is empty"):
        client.train(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).touch()
    with pytest.raises(InvalidArgument, match=r"several descriptions: a.yaml, b.yaml; give the one that is meant"):
        client.train(tmp_path)
    with pytest.raises(InvalidArgument, match=r"data: is `''`; give the path of a data\.yaml"):
        client.train("")


QUESTIONS: list[tuple[Callable[[Client], object], str]] = [
    (lambda client: client.job("cells"), "job_id: is `cells`; give a job's id or its beginning"),
    (lambda client: client.jobs(states=["DONE"]), "states: is `DONE`; use one of QUEUED, STARTING, RUNNING"),
    (lambda client: client.jobs(limit=0), "limit: is 0; give 1 or more, or None for all"),
]


@pytest.mark.parametrize(("question", "text"), QUESTIONS)
def test_a_wrong_question_is_not_asked(question: Callable[[Client], object], text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        question(Client("127.0.0.1:1"))
    assert str(raised.value).startswith(text)


def test_a_server_that_is_not_there_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_session, "_RETRY_DELAYS", (0.01, 0.01))
    server = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable) as raised:
        Client(server).jobs()
    assert str(raised.value).startswith(f"the server at http://{server} cannot be reached: Connection refused; ")
    assert "`yard up` starts one on this machine" in str(raised.value)
    with pytest.raises(Unavailable, match="Connection refused"):
        Client(f"https://{server}", token=TOKEN).jobs()


def test_a_server_that_does_not_answer_in_time_is_told(cluster: Cluster) -> None:
    client = Client(cluster.address, timeout=0.5)
    client.jobs()
    cluster.pause()
    try:
        with pytest.raises(
            DeadlineExceeded, match=r"did not answer in time; try again, or give `Client\(timeout="
        ) as raised:
            client.jobs()
        assert isinstance(raised.value, Unavailable)
    finally:
        cluster.go_on()
    client.jobs()


def test_no_token_goes_to_a_server_in_plaintext(cluster: Cluster) -> None:
    with pytest.raises(UntrustedServer, match="the server does not speak TLS; nothing was sent"):
        Client(f"https://{cluster.address}", token=TOKEN).jobs()
    # On loopback an open scheduler is asked without it.
    assert Client(cluster.address, token=TOKEN).whoami().user == ""


def test_an_encrypted_server_that_nothing_can_check_is_refused_before_a_call() -> None:
    for token in (None, "opaque"):
        with pytest.raises(InvalidArgument, match=r"nothing says which server to trust.*`yard login lab:7433`"):
            Client("https://lab:7433", token=token).jobs()
