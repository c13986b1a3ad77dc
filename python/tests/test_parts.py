"""Parts that need no cluster, and what they must have in common with the rest of Trainyard."""

from __future__ import annotations

import re
from typing import get_type_hints

import pytest
from google.protobuf import descriptor_pool

import trainyard
from build_parts.version import ROOT, __version__
from trainyard import TrainFields, _certificate, _habit, _methods, _push
from trainyard._answer import Answer
from trainyard._route import Route
from trainyard.v1 import train_pb2


def _standby(leader: str) -> Answer:
    metadata = {"leader": leader}
    return Answer("UNAVAILABLE", "stands by", reason="NOT_LEADER", metadata=metadata, retry_delay=0.25)


AWAY = Answer("UNAVAILABLE", "Connection refused", is_answer=False)


def test_a_push_that_was_too_slow_is_begun_anew() -> None:
    assert _push._come_again(Answer("DEADLINE_EXCEEDED", "nothing came for 30 s")).is_temporary
    assert not _push._come_again(Answer("DEADLINE_EXCEEDED", "too late", is_answer=False)).is_temporary
    assert not _push._come_again(Answer("RESOURCE_EXHAUSTED", "too much")).is_temporary


def test_every_scheduler_is_tried_before_a_wait() -> None:
    route = Route(["a", "b", "c"])
    assert (route.failed(AWAY), route.target) == ((True, None), "b")
    assert (route.failed(AWAY), route.target) == ((True, None), "c")
    assert (route.failed(AWAY), route.target) == ((False, None), "a")
    assert Route(["a"]).failed(AWAY) == (False, None)


def test_a_standbys_word_is_followed_and_the_leader_stays() -> None:
    route = Route(["a"])
    assert (route.failed(_standby("x")), route.target) == ((True, None), "x")
    route.worked()
    assert route.target == "x"
    assert (route.failed(AWAY), route.target) == ((True, None), "a")


def test_a_standby_that_names_a_dead_leader_is_asked_again_when_it_says() -> None:
    route = Route(["dead", "b"])
    assert (route.failed(AWAY), route.target) == ((True, None), "b")
    assert (route.failed(_standby("dead")), route.target) == ((True, None), "dead")
    assert route.failed(AWAY) == (False, 0.25)
    # Two that name each other do not keep a client busy.
    route = Route(["a"])
    assert route.failed(_standby("b")) == (True, None)
    assert route.failed(_standby("a")) == (False, 0.25)


def test_the_fields_of_a_training_are_those_of_the_protocol() -> None:
    of_protocol = {field.name for field in train_pb2.TrainSpec.DESCRIPTOR.fields} - {"model", "data"}
    assert set(get_type_hints(TrainFields)) == of_protocol


def test_every_method_is_in_the_protocol() -> None:
    pool = descriptor_pool.Default()
    for method in _methods.ALL:
        service, _, name = method.path.removeprefix("/").partition("/")
        found = pool.FindServiceByName(service).FindMethodByName(name)
        assert (found.input_type, found.output_type) == (method.request.DESCRIPTOR, method.response.DESCRIPTOR)


def test_torch_has_one_version_everywhere() -> None:
    setup = (ROOT / "deploy" / "setup.sh").read_text()
    wheel = (ROOT / "python" / "pyproject.toml").read_text()
    programs = (ROOT / "python" / "src" / "trainyard_programs.py").read_text()
    [version] = re.findall(r"^TORCH=(.+)$", setup, re.MULTILINE)
    assert f'"torch=={version}"' in wheel
    assert f'_TORCH = "{version}"' in programs
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_package_names_what_it_has() -> None:
    assert sorted(trainyard.__all__) == trainyard.__all__
    assert all(hasattr(trainyard, name) for name in trainyard.__all__)


@pytest.mark.parametrize("damaged", [b"", b"0", b"\x30\x05abc", b"\x30\x84\xff\xff\xff\xff", b"\x30\x02\x30\x00"])
def test_what_is_no_certificate_has_neither_key_nor_names(damaged: bytes) -> None:
    with pytest.raises(ValueError, match=r"no certificate|cut off"):
        _certificate.public_key(damaged)
    assert _certificate.names(damaged) == []


def test_what_users_of_other_programs_write_is_taken() -> None:
    assert _habit.model("/w/yolov8s.pt", None) == ("yolov8s", "/w/yolov8s.pt")
    assert _habit.model("/w/yolov8s.pt", "/w/best.pt") == ("yolov8s", "/w/best.pt")
    assert _habit.model("yolov8n", None) == ("yolov8n", None)
    assert [_habit.device(word) for word in ("cpu", "gpu", "cuda", "cuda:0", 0, None)] == ["cpu", *["gpu"] * 4, None]
    meanings = [("batch", "auto", -1), ("cache", True, "ram"), ("imgsz", (640, 640), 640), ("pretrained", False, "")]
    for field, value, meant in meanings:
        assert _habit.meaning(field, value) == meant
