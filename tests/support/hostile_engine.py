"""An engine whose every word tries to be markup: ``hostile_engine.py PORT``. It prints, answers and streams `PAYLOADS`.

With ``dies`` behind the port it prints them and exits with 3.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAYLOADS = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "\"><svg onload='window.pwned = 1'>",
    "</title></textarea></pre><iframe srcdoc='<script>parent.pwned = 1</script>'></iframe>",
    "<a href='javascript:window.pwned = 1'>press me</a>",
    "${window.pwned = 1} {{constructor.constructor('window.pwned = 1')()}}",
    "\x1b]0;title\x07\x1b[31mred \u202egnp.exe",
]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._reply("application/json", b'{"status": "ok", "data": []}')

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print("asked:", *PAYLOADS, sep="\n", flush=True)
        whole = {
            "id": "x",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": asked["model"],
        }
        frames = [
            {**whole, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
            for text in PAYLOADS
        ]
        frames.append({**whole, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        body = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames) + "data: [DONE]\n\n"
        self._reply("text/event-stream", body.encode())

    def _reply(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    print(*PAYLOADS, sep="\n", flush=True)
    if "dies" in sys.argv:
        sys.exit(3)
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
