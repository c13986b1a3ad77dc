#!/usr/bin/env python3
"""Checks alerts and dashboard without a cluster: promtool reads all of them, and they name metrics that are documented.

Usage: check.py PROMTOOL
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from dashboard import HERE, RULES, metrics, queries

REFERENCE = HERE.parent.parent / "docs/reference/metrics.md"


def promtool(program: str, *arguments: str) -> None:
    """Runs promtool; what it complains of ends this program."""
    output = subprocess.run([program, *arguments], cwd=HERE, capture_output=True, text=True, check=False)
    if output.returncode != 0:
        sys.exit(f"monitoring: promtool {' '.join(arguments)}\n{output.stdout}{output.stderr}")


def check_queries(program: str) -> None:
    """Promtool parses the expressions of rules: each query of the dashboard becomes one."""
    rules = [{"record": f"query:{number}", "expr": query.expression} for number, query in enumerate(queries())]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
        file.flush()
        promtool(program, "check", "rules", file.name)


def check_names() -> None:
    """No query and no alert names a metric that the reference lacks."""
    documented = set(re.findall(r"\btrainyard_\w+", REFERENCE.read_text()))
    used = {name: query.panel for query in queries() for name in metrics(query.expression)}
    used |= {name: "an alert" for name in metrics(RULES.read_text())}
    for name, where in used.items():
        if re.sub(r"_(bucket|sum|count)$", "", name) not in documented:
            sys.exit(f"monitoring: {where} uses {name}, which docs/reference/metrics.md does not have")


def check_layout() -> None:
    """Panels do not lie on each other, and have ids of their own."""
    panels = json.loads((HERE / "grafana-dashboard.json").read_text())["panels"]
    if len({panel["id"] for panel in panels}) != len(panels):
        sys.exit("monitoring: two panels have the same id")
    for one, other in itertools.combinations(panels, 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        if not (beside or below):
            sys.exit(f"monitoring: the panels {one['title']} and {other['title']} lie on each other")


def main() -> None:
    """Runs every check; the first fault ends it."""
    program = str(Path(sys.argv[1]).resolve())
    promtool(program, "check", "rules", RULES.name)
    promtool(program, "test", "rules", "trainyard.rules.test.yml")
    check_queries(program)
    check_names()
    check_layout()
    print(f"monitoring: the alerts are raised when they should be, and {len(queries())} queries can be read")


main()
