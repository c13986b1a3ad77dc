"""What wheel.sh does with the Python client inside of a fresh system. Usage: inside_wheel.py JOB, the one of `yard`."""

import sys
from pathlib import Path

import trainyard

client = trainyard.Client()
of_yard = client.job(sys.argv[1])
fetched = of_yard.download("best", "by-client.safetensors")
assert fetched.read_bytes() == Path("by-yard/weights/best.safetensors").read_bytes()

job = client.train("data/shapes", device="cpu", epochs=2, imgsz=64, batch=8, workers=1)
for event in job.watch():
    print(event)
assert job.state == "SUCCEEDED", job.progress()
assert [row["epoch"] for row in job.metrics()] == [1, 2]
print(job.download("best", "by-client-alone.safetensors"), "has", fetched.stat().st_size, "bytes")
