"""What the tests read of the dashboard: its queries, and the metrics that an expression names."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
RULES = HERE / "trainyard.rules.yml"


@dataclass(frozen=True)
class Query:
    """One query of a panel, with Grafana's variables filled in."""

    panel: str
    expression: str


def queries() -> list[Query]:
    """Every query of the dashboard, in the order of its panels."""
    dashboard = json.loads((HERE / "grafana-dashboard.json").read_text())
    found = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "10s").replace("$host", ".*")
            if "$" in expression:
                raise ValueError(f"the panel {panel['title']} has a variable that is not known: {expression}")
            found.append(Query(panel["title"], expression))
    return found


def metrics(text: str) -> set[str]:
    """The names of Trainyard's metrics in an expression or a file of them."""
    return set(re.findall(r"\btrainyard_\w+", text))
