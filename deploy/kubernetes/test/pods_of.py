#!/usr/bin/env python3
"""Prints a Pod for each pod template in the manifests on stdin.

An API server checks a Pod fully, but not the template of a StatefulSet or DaemonSet: its pods fail only later.
"""

import sys

import yaml


def main() -> None:
    """Reads manifests, writes pods."""
    for document in yaml.safe_load_all(sys.stdin):
        template = (document or {}).get("spec", {}).get("template")
        if not template:
            continue
        spec = template["spec"]
        for claim in document["spec"].get("volumeClaimTemplates", []):
            spec.setdefault("volumes", []).append({"name": claim["metadata"]["name"], "emptyDir": {}})
        metadata = {
            **template["metadata"],
            "name": f"{document['kind'].lower()}-{document['metadata']['name']}",
            "namespace": document["metadata"]["namespace"],
        }
        yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, sys.stdout,
                       explicit_start=True)


main()
