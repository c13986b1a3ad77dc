"""A trainer that learns nothing and tells much: curves, warnings, classes, pictures. A job's `seed` says how."""

import json
import math
import os
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import Any

#: Seeds: trains for as long as it is let; crashes once in the middle; fails; has many classes; has very many.
SLOW, CRASHES, FAILS, CLASSES, MORE_CLASSES = 1, 2, 3, 4, 5
#: Seed: draws three pictures and the last of them anew in each epoch, slowly.
DRAWS = 6
#: How many classes there are.
COUNTS = {CLASSES: 100, MORE_CLASSES: 500}


def _picture(side: int) -> bytes:
    """A grey PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    rows = zlib.compress((b"\0" + b"\x90" * side) * side)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _write(path: Path, content: bytes) -> None:
    """At once, so that nobody reads half of it."""
    half = path.with_suffix(".half")
    half.write_bytes(content)
    half.rename(path)


def _option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def main() -> int:
    """Trains."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    spec = json.loads(Path(_option("--spec")).read_text())
    run = Path(_option("--run-dir"))
    seed, epochs, rate = int(spec["seed"]), int(spec["epochs"]), float(spec["lr0"])
    events = os.fdopen(int(_option("--events-fd")), "w", buffering=1)

    def say(kind: str, **event: Any) -> None:
        events.write(json.dumps({"v": 1, "time": int(time.time() * 1000), "type": kind} | event) + "\n")

    crashed = run / "crashed"
    first = epochs // 2 if crashed.exists() else 1
    say(
        "started",
        parameters=3011043,
        train_images=800,
        val_images=80,
        classes=["cell"],
        epochs=epochs,
        batch_size=16,
        first_epoch=first,
        device="cuda:0",
        precision="bf16",
        libtorch="2.13.0",
    )
    if seed == FAILS:
        say("failed", message="the labels of <i>all</i> images are empty")
        return 64
    for epoch in range(first, epochs + 1):
        part = epoch / epochs
        losses = {f"train/{name}_loss": 0.5 + math.exp(-3 * part) * most for name, most in (("box", 2), ("cls", 3))}
        phases = {
            "wait": 0.002,
            "copy": 0.001,
            "forward": 0.02,
            "loss": 0.01,
            "backward": 0.04,
            "optimizer": 0.006,
        }
        for batch in (25, 50):
            time.sleep(0.5 if seed in (SLOW, DRAWS) else 0.01)
            say(
                "step",
                epoch=epoch,
                batch=batch,
                batches=50,
                images_per_second=212.0 + epoch,
                loader_wait_ratio=0.02,
                metrics=losses,
                phases=phases,
            )
        if seed == DRAWS:
            for number in range(3) if epoch == 1 else [2]:
                _write(run / f"train_batch{number}.jpg", _picture(32 + epoch))
        accuracy = (1 - math.exp(-4 * part)) * (0.6 + rate)
        say(
            "epoch",
            epoch=epoch,
            epochs=epochs,
            seconds=epoch,
            images_per_second=212.0,
            loader_wait_ratio=0.02,
            best=True,
            metrics=losses
            | {
                "val/box_loss": losses["train/box_loss"] * 1.1,
                "lr/pg0": rate * (1.01 - part),
            }
            | {"metrics/mAP50(B)": accuracy + 0.1, "metrics/mAP50-95(B)": accuracy},
        )
        if epoch == 2:
            say(
                "log",
                level="warning",
                message="2 corrupt images skipped: <script>alert(1)</script>",
            )
        if seed == CRASHES and epoch == epochs // 2 and not crashed.exists():
            crashed.touch()
            return 70
    count = COUNTS.get(seed, 0)
    names = [f"class {number:03}" for number in range(count)] or ["cell", "<b>nucleus</b>"]
    per_class = {
        f"metrics/{kind}(B)/{name}": (number + 1) / (len(names) + 1)
        for number, name in enumerate(names)
        for kind in ("mAP50", "mAP50-95")
    }
    files = [
        "train_batch0.jpg",
        "val_batch0_pred.jpg",
        "results.png",
        "results.csv",
        "weights/best.safetensors",
    ]
    for name in files:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(_picture(64) if name[-3:] in ("jpg", "png") else b"epoch,time\n1,2\n")
    final = {"metrics/mAP50(B)": 0.7 + rate, "metrics/mAP50-95(B)": 0.6 + rate}
    say("finished", best_epoch=epochs, metrics=final | per_class, artifacts=files)
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "self-test":
        print('{"ok":true,"libtorch":"2.13.0"}')
        sys.exit(0)
    sys.exit(main())
