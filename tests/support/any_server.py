"""A server that answers any method and path, for engines whose routes nobody knows: ``any_server.py PORT``.

``/health`` is well; ``/cut`` breaks off in the middle; ``/held`` sends a first piece and no more; ``/short`` answers
418 with a body of its own; ``/moved`` leads elsewhere; all else tells what was asked.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        body = self._body()
        path = self.path.partition("?")[0]
        if path in {"/cut", "/held"}:
            self._reply(200, b"half", length=8)
            if path == "/held":
                Event().wait()
            self.close_connection = True
        elif path == "/short":
            self._reply(418, b"short and stout", kind="text/plain")
        elif path == "/moved":
            self._reply(302, b"", Location="elsewhere")
        else:
            told = {
                "method": self.command,
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "body": body.decode("latin-1"),
            }
            self._reply(200, json.dumps(told).encode(), **{"Set-Cookie": "a=b", "ETag": '"tag"'})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _reply(
        self,
        status: int,
        body: bytes,
        kind: str = "application/json",
        length: int | None = None,
        **more: str,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _any  # noqa: N815  # http.server calls them so

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
