"""A small inference server: HTTP of the standard library, a model in PyTorch, requests batched as they arrive.

python3 server.py --port 8000; POST /infer with the 3 x 224 x 224 bytes of an image gives its 1000 values as float32.
"""

import argparse
import queue
import threading
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

PIXELS = (3, 224, 224)
IMAGE_BYTES = 3 * 224 * 224


class Classifier(torch.nn.Module):
    """A vision transformer with random weights, on images of one byte a value."""

    def __init__(self, layers: int, width: int, patch: int = 16) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, width, patch, patch)
        layer = torch.nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True, norm_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = torch.nn.Linear(width, 1000)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches((images.to(self.head.weight.dtype) - 128) / 64).flatten(2).transpose(1, 2)
        return self.head(self.encoder(tokens).mean(1)).float()


class Engine(threading.Thread):
    """Takes requests from a queue, as many at once as wait there, and answers them."""

    def __init__(self, model: torch.nn.Module, device: str, most: int) -> None:
        super().__init__(daemon=True)
        self.model, self.device, self.most = model, device, most
        self.waiting: queue.Queue[tuple[bytes, Future[bytes]]] = queue.Queue()
        pinned = device == "cuda"
        self.images = torch.empty((most, *PIXELS), dtype=torch.uint8, pin_memory=pinned)
        self.values = torch.empty((most, 1000), pin_memory=pinned)

    @torch.inference_mode()
    def run(self) -> None:
        while True:
            batch = [self.waiting.get()]
            while len(batch) < self.most and not self.waiting.empty():
                batch.append(self.waiting.get())
            count = len(batch)
            for image, (body, _) in zip(self.images, batch, strict=False):
                image.view(-1).copy_(torch.frombuffer(bytearray(body), dtype=torch.uint8))
            values = self.model(self.images[:count].to(self.device, non_blocking=True))
            self.values[:count].copy_(values)  # waits for the model and for the copy
            for row, (_, answer) in zip(self.values, batch, strict=False):
                answer.set_result(row.numpy().tobytes())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine

    def do_GET(self) -> None:
        self.answer(200 if self.path == "/health" else 404, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/infer" or len(body) != IMAGE_BYTES:
            return self.answer(400, b"POST /infer takes 3 x 224 x 224 bytes")
        answer: Future[bytes] = Future()
        self.engine.waiting.put((body, answer))
        self.answer(200, answer.result())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """No line for each request."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name, value in {"port": 8000, "layers": 12, "width": 768, "max-batch": 32}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = options.parse_args()
    dtype = torch.bfloat16 if given.device == "cuda" else torch.float32
    model = Classifier(given.layers, given.width).to(given.device, dtype).eval()
    Handler.engine = Engine(model, given.device, given.max_batch)
    Handler.engine.start()
    ThreadingHTTPServer.request_queue_size = 1024  # connections that open at once; of more, some are reset
    ThreadingHTTPServer(("127.0.0.1", given.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
