"""The messages of the protocol as Python, from proto/trainyard/v1."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from build_parts.version import ROOT

_PROTO = ROOT / "proto"


def generate(folder: Path) -> Path:
    """Writes the package `trainyard.v1` below `folder`, with types; returns its own folder."""
    from grpc_tools import protoc

    sources = sorted((_PROTO / "trainyard" / "v1").glob("*.proto"))
    package = folder / "trainyard" / "v1"
    package.mkdir(parents=True, exist_ok=True)
    known_types = files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"--proto_path={_PROTO}",
        f"--proto_path={known_types}",
        f"--python_out={folder}",
        f"--pyi_out={folder}",
        *map(str, sources),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("the protocol's files cannot be read; protoc says above what is wrong")
    (package / "__init__.py").write_text('"""The protocol\'s messages, generated from proto/trainyard/v1."""\n')
    return package


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
