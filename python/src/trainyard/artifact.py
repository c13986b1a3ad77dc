"""What a job has left behind."""

from __future__ import annotations

from dataclasses import dataclass

from trainyard.v1 import artifacts_pb2


@dataclass(frozen=True)
class Artifact:
    """One file of a job: ``weights/best.safetensors``."""

    name: str
    size_bytes: int
    #: Lower-case hexadecimal.
    sha256: str
    #: A picture of a job that has not succeeded. Another one may take its name.
    live: bool = False

    @classmethod
    def of(cls, message: artifacts_pb2.Artifact) -> Artifact:
        """As the scheduler names it."""
        return cls(message.name, message.size_bytes, message.sha256, message.live)
