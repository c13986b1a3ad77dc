#!/usr/bin/env python3
"""Checks what schemas and API servers do not: whether the parts of rendered manifests fit each other and the programs.

Usage: meaning.py BIN_DIR VERSION < manifests. Prints every fault and ends with 1 if there is one.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

# Secrets that people make by the documents' commands. No manifest has a secret in it.
SECRETS = {"trainyard-join", "trainyard-redis", "trainyard-metrics"}
PROGRAMS = {"scheduler": "trainyard-scheduler", "agent": "trainyard-agent"}


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether labels have all that a selector asks for."""
    return all(labels.get(key) == value for key, value in selector.items())


def seconds(text: str) -> int:
    """A duration as the programs print it: `90s`, `1m 30s`."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text))


class Manifests:
    """All documents of one overlay, and what is wrong with them."""

    def __init__(self, documents: list[Document], programs: Path, version: str) -> None:
        self.documents = documents
        self.programs = programs
        self.version = version
        self.faults: list[str] = []
        self.where = ""

    def of(self, *kinds: str) -> Iterator[Document]:
        """The documents of some kinds; faults that are found meanwhile are theirs."""
        for document in self.documents:
            if document["kind"] in kinds:
                self.where = f"{document['kind']} {document['metadata']['name']}"
                yield document

    def names(self, kind: str) -> set[str]:
        """The names of all documents of a kind."""
        return {document["metadata"]["name"] for document in self.documents if document["kind"] == kind}

    def expect(self, holds: bool, fault: str) -> None:
        """Notes a fault unless something holds."""
        if not holds:
            self.faults.append(f"{self.where}: {fault}")

    def workloads(self) -> Iterator[tuple[Document, Document]]:
        """Each StatefulSet and DaemonSet, and the spec of its pods."""
        for workload in self.of("StatefulSet", "DaemonSet"):
            yield workload, workload["spec"]["template"]["spec"]

    def pod_labels(self) -> list[dict[str, str]]:
        """The labels of the pods of each workload."""
        return [workload["spec"]["template"]["metadata"]["labels"] for workload, _ in self.workloads()]

    def check_selectors(self) -> None:
        """Who selects pods selects some, and no pod belongs to two workloads."""
        all_labels = self.pod_labels()
        for workload, _ in self.workloads():
            selector = workload["spec"]["selector"]["matchLabels"]
            own = workload["spec"]["template"]["metadata"]["labels"]
            self.expect(matches(selector, own), "its selector does not match its own pods")
            count = sum(matches(selector, labels) for labels in all_labels)
            self.expect(count == 1, f"its selector matches the pods of {count} workloads")
        for other in self.of("Service", "PodDisruptionBudget", "NetworkPolicy"):
            spec = other["spec"]
            selector = spec.get("podSelector", spec.get("selector", {}))
            selector = selector.get("matchLabels", selector)
            self.expect(any(matches(selector, labels) for labels in all_labels), "it selects no pods")

    def check_ports(self) -> None:
        """Ports that are named are there."""
        for _, pod in self.workloads():
            for container in pod["containers"]:
                ports = {port["name"] for port in container.get("ports", [])}
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    port = container.get(probe, {}).get("httpGet", {}).get("port")
                    self.expect(port in ports, f"{probe} asks the port {port}, which the container has not")
        everywhere = {
            port["name"] for _, pod in self.workloads() for container in pod["containers"] for port in container["ports"]
        }
        for service in self.of("Service"):
            for port in service["spec"]["ports"]:
                self.expect(port["targetPort"] in everywhere, f"no container has the port {port['targetPort']}")
        for policy in self.of("NetworkPolicy"):
            for rule in policy["spec"].get("ingress", []):
                for port in rule.get("ports", []):
                    self.expect(port["port"] in everywhere, f"no container has the port {port['port']}")

    def check_monitors(self) -> None:
        """Monitors of the Prometheus operator find services or pods, and the ports that they name."""
        services = [(service["metadata"]["labels"], {port["name"] for port in service["spec"]["ports"]})
                    for service in self.of("Service")]
        pods = [(labels, {port["name"] for container in pod["containers"] for port in container["ports"]})
                for labels, (_, pod) in zip(self.pod_labels(), self.workloads(), strict=True)]
        for monitor in self.of("ServiceMonitor", "PodMonitor"):
            spec = monitor["spec"]
            selector = spec["selector"]["matchLabels"]
            ports = {endpoint["port"] for endpoint in spec.get("endpoints", spec.get("podMetricsEndpoints", []))}
            targets = services if monitor["kind"] == "ServiceMonitor" else pods
            found = [named for labels, named in targets if matches(selector, labels)]
            self.expect(bool(found), "it selects nothing to watch")
            self.expect(all(ports <= named for named in found), f"its ports {sorted(ports)} are not there")

    def check_volumes(self) -> None:
        """Mounts have volumes, volumes are mounted, and what they name is there."""
        configs, claims, priorities = (self.names(kind) for kind in ("ConfigMap", "PersistentVolumeClaim", "PriorityClass"))
        for workload, pod in self.workloads():
            volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
            made = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
            mounted = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
            for name in mounted - volumes.keys() - made:
                self.expect(False, f"a mount names the volume {name}, which the pod has not")
            for name in (volumes.keys() | made) - mounted:
                self.expect(False, f"nothing mounts the volume {name}")
            for name, volume in volumes.items():
                if "configMap" in volume:
                    self.expect(volume["configMap"]["name"] in configs, f"the volume {name} is of no ConfigMap")
                if "persistentVolumeClaim" in volume:
                    self.expect(volume["persistentVolumeClaim"]["claimName"] in claims, f"the volume {name} is of no claim")
                if "secret" in volume:
                    self.expect(volume["secret"]["secretName"] in SECRETS, f"no document makes the secret of {name}")
            self.expect(pod.get("priorityClassName") in priorities, "its priority class is not there")

    def check_safety(self) -> None:
        """What each pod must not have, whoever patches it."""
        for workload, pod in self.workloads():
            self.expect(pod.get("automountServiceAccountToken") is False, "it has a token of the cluster's API")
            for container in pod["containers"]:
                context = container["securityContext"]
                self.expect(not context.get("privileged"), "a container is privileged")
                self.expect(context["capabilities"]["drop"] == ["ALL"], "a container keeps capabilities that nobody named")
                image, _, tag = container["image"].rpartition(":")
                self.expect(tag in (f"{self.version}-cpu", f"{self.version}-cu130"), f"{image} has the tag {tag}")
                self.expect(container["imagePullPolicy"] == "IfNotPresent", "a fixed tag is pulled again and again")
            if workload["kind"] == "DaemonSet":
                self.expect(pod["nodeSelector"].get("trainyard/gpu") == "true", "it runs on nodes without the label")
                self.expect(pod.get("hostPID") is True, "without hostPID the agent cannot tell whose a process is")

    def run_config(self, program: str, environment: dict[str, str], file: str) -> str:
        """What a program makes of its configuration; empty where it refuses it."""
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
            config.write(file)
            config.flush()
            command = [str(self.programs / program), "--config", config.name, "config"]
            output = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        self.expect(output.returncode == 0, f"{program} refuses its configuration: {output.stderr.strip()}")
        return output.stdout if output.returncode == 0 else ""

    def check_configuration(self) -> None:
        """The programs take their files and variables, and pods live longer than the agent needs to hand its jobs back."""
        files = {document["metadata"]["name"]: document["data"] for document in self.of("ConfigMap")}
        for _, pod in self.workloads():
            for container in pod["containers"]:
                program = PROGRAMS[container["name"]]
                self.expect(container["command"] == [f"/usr/bin/{program}"], f"it does not start {program}, or not by itself")
                variables = {entry["name"]: entry.get("value", "redis://stands-for-what-kubernetes-fills-in") for entry in
                             container.get("env", [])}
                given = {name: value.replace("$(POD_NAME)", "scheduler-0") for name, value in variables.items()
                         if name.startswith(f"TRAINYARD_{container['name'].upper()}__")}
                mount = next(volume for volume in pod["volumes"] if volume["name"] == "config")
                path = variables[f"TRAINYARD_{container['name'].upper()}_CONFIG"]
                file = files[mount["configMap"]["name"]].get(os.path.basename(path))
                self.expect(file is not None, f"its ConfigMap has no {path}")
                printed = self.run_config(program, given, file or "")
                grace = re.search(r"shutdown_grace\s*=?\s*\"?([\dhms ]+)", printed)
                if grace is not None:
                    limit = pod["terminationGracePeriodSeconds"]
                    self.expect(limit > seconds(grace[1]) + 10, f"{limit} s are too few for shutdown_grace {grace[1]}")
                elif program == "trainyard-agent" and printed:
                    self.expect(False, "the agent's configuration does not say shutdown_grace")


def main() -> None:
    """Reads manifests and says what is wrong with them."""
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    manifests = Manifests(documents, Path(sys.argv[1]), sys.argv[2])
    manifests.check_selectors()
    manifests.check_ports()
    manifests.check_monitors()
    manifests.check_volumes()
    manifests.check_safety()
    manifests.check_configuration()
    print("\n".join(manifests.faults), end="\n" if manifests.faults else "")
    sys.exit(1 if manifests.faults else 0)


main()
