"""Requests for server.py from several connections at once; the rate and the latency go to NUMASTUDY_RESULT.

python3 client.py --port 8000 --requests 2000 --connections 16
"""

import argparse
import http.client
import json
import os
import random
import threading
import time
from pathlib import Path

IMAGE_BYTES = 3 * 224 * 224


def send(port: int, requests: int, seed: int, latencies_s: list[float]) -> None:
    """One connection: each request waits for the answer to the one before."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    image = random.Random(seed).randbytes(IMAGE_BYTES)
    for _ in range(requests):
        begin = time.perf_counter()
        connection.request("POST", "/infer", image)
        answer = connection.getresponse()
        if answer.status != 200 or len(answer.read()) != 4000:
            raise RuntimeError(f"the server answered {answer.status}")
        latencies_s.append(time.perf_counter() - begin)


def load(port: int, requests: int, connections: int) -> tuple[float, list[float]]:
    """Seconds in all, and the sorted latencies. Raise RuntimeError for an answer that is missing."""
    latencies_s: list[float] = []
    each = -(-requests // connections)
    threads = [
        threading.Thread(target=send, args=(port, each, seed, latencies_s), daemon=True) for seed in range(connections)
    ]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(latencies_s) != each * connections:
        raise RuntimeError(f"{len(latencies_s)} of {each * connections} requests were answered")
    return time.perf_counter() - begin, sorted(latencies_s)


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
