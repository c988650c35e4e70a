"""A web server on this machine that serves bytes with faults, as they are met on real ones."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Served:
    """What is served, what goes wrong, and what was asked for.

    Attributes:
        files: bytes by path, with the leading slash.
        faults: for each request, the next of these: `503`, `404`, `cut` (half of the body), `stall` (half of it, then
            silence), `short` (a header that promises more than comes), `change` (other content from here on). None, or
            no more: all goes well.
        ranges: whether ranges are known.
        asked: (path, first byte) of each request.
        sent: bytes of bodies.
    """

    files: dict[str, bytes]
    faults: list[str | None] = field(default_factory=list)
    ranges: bool = True
    asked: list[tuple[str, int]] = field(default_factory=list)
    sent: int = 0
    url: str = ""


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Served]:
    """Serve until the block ends."""
    served = Served(files)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(served)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        served.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield served
        server.shutdown()


def _handler(served: Served) -> Callable[..., http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
            start = int(asked) if served.ranges else 0
            served.asked.append((self.path, int(asked)))
            fault = served.faults.pop(0) if served.faults else None
            if fault == "change":
                served.files[self.path] = served.files[self.path][::-1]
            body = served.files.get(self.path)
            if body is None or fault in ("404", "503", "429"):
                self.send_error(int(fault or 404))
                return
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hash(body):x}"')
            self.send_header("Content-Length", str(len(body) - start + 1000 * (fault == "short")))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            sent = body[start:] if fault in (None, "short", "change") else body[start : (start + len(body)) // 2]
            served.sent += self.wfile.write(sent)
            if fault == "stall":
                time.sleep(1)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
