"""Requests for server.py from several connections at once; the rate and the latency go to NUMASTUDY_RESULT.

python3 client.py --port 8000 --requests 2000 --connections 16
"""

import argparse
import http.client
import json
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

IMAGE_BYTES = 3 * 224 * 224


def send(port: int, requests: int, seed: int) -> list[float]:
    """One connection, where each request waits for the answer to the one before: the seconds that each took."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    image = random.Random(seed).randbytes(IMAGE_BYTES)
    latencies_s = []
    for _ in range(requests):
        begin = time.perf_counter()
        connection.request("POST", "/infer", image)
        answer = connection.getresponse()
        if answer.status != 200 or len(answer.read()) != 4000:
            raise RuntimeError(f"the server answered {answer.status}")
        latencies_s.append(time.perf_counter() - begin)
    return latencies_s


def load(port: int, requests: int, connections: int) -> tuple[float, list[float]]:
    """Seconds in all, and the sorted latencies. Exit with the reason if a request has no answer."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        sent = [pool.submit(send, port, -(-requests // connections), seed) for seed in range(connections)]
    seconds = time.perf_counter() - begin
    if errors := [error for one in sent if (error := one.exception())]:
        sys.exit(f"{len(errors)} of {connections} connections failed: {errors[0]!r}")
    return seconds, sorted(latency for one in sent for latency in one.result())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name, value in {"port": 8000, "requests": 2000, "connections": 16, "warmup": 64}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    given = options.parse_args()
    load(given.port, given.warmup, given.connections)
    seconds, latencies_s = load(given.port, given.requests, given.connections)
    rate = len(latencies_s) / seconds
    metrics = {
        "requests_s": {"value": rate, "unit": "requests/s", "better": "higher"},
        "median_ms": {"value": 1e3 * latencies_s[len(latencies_s) // 2], "unit": "ms", "better": "lower"},
        "p99_ms": {"value": 1e3 * latencies_s[len(latencies_s) * 99 // 100], "unit": "ms", "better": "lower"},
    }
    text = json.dumps({"metrics": metrics, "primary": "requests_s"}, indent=1)
    if file := os.environ.get("NUMASTUDY_RESULT"):
        Path(file).write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
