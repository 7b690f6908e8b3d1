"""A small HTTP server with byte ranges on a loopback port: what a bucket or a tile server looks like."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Served:
    """Where the files are, and what was asked for."""

    url: str
    etags: bool = True
    sent_bytes: int = 0
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve_folder(folder: Path) -> Iterator[Served]:
    """Serve the files of a folder until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            served.asked.append(f"{self.command} {self.path}")
            path = folder / self.path.split("?")[0].lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first, last = 0, len(data) - 1
            if wanted:
                first, last = int(wanted[1]), min(int(wanted[2] or last), last)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            else:
                self.send_response(200)
            part = data[first : last + 1]
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Accept-Ranges", "bytes")
            if served.etags:
                self.send_header("ETag", f'"{md5(data).hexdigest()}"')
            self.end_headers()
            if body:
                served.sent_bytes += len(part)
                self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
