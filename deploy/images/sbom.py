#!/usr/bin/env python3
"""Prints what is in an image as a CycloneDX 1.6 document: crates by Cargo.lock, wheels by their list, Debian's packages.

The same inputs give the same bytes: there is no time in it, and its serial number is made of its content. Crates that
only tests use are listed, too: Cargo.lock does not tell them apart.
"""

import argparse
import json
import re
import uuid
from pathlib import Path
from typing import Any

Component = dict[str, Any]


def crates(lock: Path) -> list[Component]:
    """The crates of Cargo.lock that come from a registry; those without a source are the product itself."""
    # Cargo writes a key a line; Python reads TOML only from 3.11 on, and Ubuntu 22.04 has 3.10.
    blocks = lock.read_text().split("[[package]]")[1:]
    packages = [dict(re.findall(r'^(\w+) = "(.*)"$', block, re.MULTILINE)) for block in blocks]
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:cargo/{package['name']}@{package['version']}",
            "purl": f"pkg:cargo/{package['name']}@{package['version']}",
            "name": package["name"],
            "version": package["version"],
            "hashes": [{"alg": "SHA-256", "content": package["checksum"]}],
        }
        for package in packages
        if "checksum" in package
    ]


def wheels(requirements: Path) -> list[Component]:
    """The wheels of a list with hashes."""
    found = []
    for line in requirements.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        requirement, digest = line.split(" --hash=sha256:")
        name, version = requirement.split("==")
        purl = f"pkg:pypi/{name}@{version}"
        found.append({
            "type": "library",
            "bom-ref": purl,
            "purl": purl,
            "name": name,
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        })
    return found


def packages(table: Path) -> list[Component]:
    """Debian's packages: name, version and architecture, with tabs between."""
    found = []
    for line in table.read_text().splitlines():
        name, version, architecture = line.split("\t")
        escaped = version.replace("+", "%2B").replace(":", "%3A")
        purl = f"pkg:deb/debian/{name}@{escaped}?arch={architecture}&distro=bookworm"
        found.append({"type": "library", "bom-ref": purl, "purl": purl, "name": name, "version": version})
    return found


def document(version: str, components: list[Component]) -> dict[str, Any]:
    """The whole document, in the order of the components' names."""
    components = sorted(components, key=lambda component: component["bom-ref"])
    product = {"type": "container", "bom-ref": "trainyard", "name": "trainyard", "version": version,
               "licenses": [{"license": {"id": "MIT"}}]}
    content = json.dumps([product, components])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": product},
        "components": components,
        "dependencies": [{"ref": "trainyard", "dependsOn": [component["bom-ref"] for component in components]}],
    }


def main() -> None:
    """Reads the three lists and prints the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--crates", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--packages", type=Path, required=True)
    given = parser.parse_args()
    components = crates(given.crates) + wheels(given.wheels) + packages(given.packages)
    print(json.dumps(document(given.version, components), indent=1))


main()
