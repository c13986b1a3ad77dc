"""What is generated of the Python client: the messages of the protocol, from proto/trainyard/v1, and the version."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from build_parts.version import ROOT, __version__

_PROTO = ROOT / "proto"


def generate(folder: Path) -> dict[Path, str]:
    """Writes the package `trainyard.v1`, with types, and `trainyard._version` below `folder`. Returns what is new, with
    its place in a wheel."""
    package = folder / "trainyard"
    return {_messages(folder): "trainyard/v1", _version(package / "_version.py"): "trainyard/_version.py"}


def _messages(folder: Path) -> Path:
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


def _version(file: Path) -> Path:
    file.write_text(f'"""The version, generated from Cargo.toml."""\n\n__version__ = "{__version__}"\n')
    return file


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
