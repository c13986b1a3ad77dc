"""A machine of the cluster, as the scheduler sees it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from trainyard.v1 import cluster_pb2

_MIB_PER_GIB = 1024


@dataclass(frozen=True)
class Agent:
    """A machine: its GPUs, its CPU slots, and why it takes no job, if so."""

    #: All that the scheduler says of it: `trainyard.v1.Agent`.
    message: cluster_pb2.Agent

    @property
    def id(self) -> str:
        """Its id, a UUID."""
        return self.message.id

    @property
    def name(self) -> str:
        """Its name."""
        return self.message.name

    @property
    def state(self) -> str:
        """CONNECTED, DISCONNECTED or LOST."""
        return cluster_pb2.AgentState.Name(self.message.state)

    @property
    def gpus(self) -> list[str]:
        """What it has, with its memory: "NVIDIA GeForce RTX 4090, 24 GiB"."""
        return [f"{gpu.model}, {round(gpu.memory_total_mib / _MIB_PER_GIB)} GiB" for gpu in self.message.gpus]

    @property
    def cpu_slots(self) -> int:
        """Jobs that it trains on its CPU at a time."""
        return len(self.message.cpu_slots)

    @property
    def unavailable(self) -> str:
        """Why it takes no job; empty when it does."""
        return "drained" if self.message.drained else self.message.unavailable

    def __repr__(self) -> str:
        what = [*self.gpus, f"{self.cpu_slots} CPU slots"]
        return f"<Agent {self.name!r} {self.state} {'; '.join(what)}>"

    def _repr_html_(self) -> str:
        return agents_html([self])


class Agents(list[Agent]):
    """Machines, by name."""

    def _repr_html_(self) -> str:
        return agents_html(self)


def agents_html(agents: list[Agent]) -> str:
    """A table of machines, for a notebook."""
    head = "".join(f"<th>{title}</th>" for title in ("agent", "state", "GPUs", "CPU slots", "takes no job because"))
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(text)}</td>"
            for text in (one.name, one.state, "; ".join(one.gpus), str(one.cpu_slots), one.unavailable)
        )
        + "</tr>"
        for one in agents
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
