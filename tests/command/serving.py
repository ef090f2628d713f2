"""A server with one worker in its session and one outside, for tests. usage: serving.py PORT [exit|die|deaf|stubborn]

exit: ends before it is ready. die: ends when it is asked something beyond its health. deaf: never listens.
stubborn: ignores SIGTERM.
"""

import http.server
import os
import signal
import subprocess
import sys
import time

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
port, mode = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if mode == "die" and self.path != "/health":
            os._exit(3)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(SLEEP)
subprocess.Popen(SLEEP, start_new_session=True)
if mode == "exit":
    sys.exit("no model")
if mode == "deaf":
    time.sleep(600)
server = http.server.HTTPServer(("127.0.0.1", port), Handler)
print(f"listening on {port}", flush=True)
server.serve_forever()
