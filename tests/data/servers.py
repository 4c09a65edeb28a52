"""Servers on this machine for tests of addresses: an HTTP server that sends ranges, and moto's S3."""

import contextlib
import http.server
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HOST = "127.0.0.1"


@contextlib.contextmanager
def http_folder(folder: Path, *, ranges: bool = True, missing: int = 404
                ) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """The address of a server of the files in a folder, and what it has sent: `(name, bytes)`.

    ranges: whether it sends parts of files. missing: its answer for what is not there.
    """
    sent: list[tuple[str, int]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = folder / self.path.lstrip("/").partition("?")[0]
            if not path.is_file():
                self.send_error(missing)
                return
            content, status = path.read_bytes(), 200
            whole = len(content)
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and ranges:
                content, status = content[int(asked[1]):int(asked[2] or whole) + 1], 206
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(content) - 1}/{whole}")
            if ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                sent.append((path.name, len(content)))
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """moto's S3 in a process of its own; the environment by which clients find it. folder: for its output."""
    with open(folder / "moto.txt", "wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", HOST, "-p", "0"], stdout=output,
                                   stderr=subprocess.STDOUT)
    try:
        yield {"AWS_ENDPOINT_URL": _wait_for(process, folder / "moto.txt"), "AWS_ACCESS_KEY_ID": "test",
               "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(process: subprocess.Popen, output: Path) -> str:
    for _ in range(300):
        assert process.poll() is None, output.read_text()
        if found := re.search(r"Running on (http://\S+)", output.read_text()):
            with contextlib.suppress(OSError), urllib.request.urlopen(found[1], timeout=1):
                return found[1]
        time.sleep(0.1)
    raise AssertionError(f"moto did not start: {output.read_text()}")
