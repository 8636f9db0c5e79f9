"""Emulators of Google Cloud Storage and S3, behind a proxy that can inject faults."""

import contextlib
import dataclasses
import http.client
import http.server
import json
import logging
import re
import threading
import time
import urllib.parse
from collections.abc import Callable

from muskie_tests.commands import free_port

BUCKET = "bucket"
HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server")
CUT = "cut"  # a fault: half of the request arrives, then the connection closes


@dataclasses.dataclass
class Store:
    """A running emulator.

    Attributes:
      scheme: "gs" or "s3".
      environment: variables that direct TensorStore and fsspec to it.
      fault: called with a request's method and unquoted path and query; returns an HTTP status to answer,
        seconds to wait, CUT, or None.
      requests: method and path of each request so far.
    """

    scheme: str
    environment: dict[str, str]
    fault: Callable[[str, str], int | float | str | None] = lambda method, path: None
    requests: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def url(self, name: str) -> str:
        return f"{self.scheme}://{BUCKET}/{name}"


class _Handler(http.server.BaseHTTPRequestHandler):
    """Forwards requests. For GCS, it adds what the emulator lacks: generations and conditional writes."""

    protocol_version = "HTTP/1.1"
    store: Store
    upstream: int
    turn: threading.Lock

    def log_message(self, format, *args):
        pass

    def handle_one_request(self):
        with contextlib.suppress(ConnectionError):  # a killed client
            super().handle_one_request()

    def do_GET(self):
        self._forward()

    do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = do_GET

    def _forward(self):
        path, body = urllib.parse.unquote(self.path), None
        if "uploadType=multipart" in path:  # the name is in the body
            body = self._body()
            path += f" {_name_in(body)}"
        self.store.requests.append((self.command, path))
        fault = self.store.fault(self.command, path)
        if fault == CUT:
            if body is None:
                self.rfile.read(int(self.headers.get("content-length", 0)) // 2)
            self.close_connection = True
            return self.connection.close()
        body = self._body() if body is None else body
        if isinstance(fault, int):
            return self._answer(fault, {}, b"injected")
        if fault:
            time.sleep(fault)
        with self.turn if self.store.scheme == "gs" and self.command != "GET" else contextlib.nullcontext():
            self._answer(*self._conditional(body))

    def _body(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _conditional(self, body):
        if self.store.scheme != "gs":
            return self._ask(self.command, self.path, body)
        parts = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(parts.query).items()}
        name = query.get("name")
        if name is None and (found := re.search(r"/o/([^/?]+)", parts.path)):
            name = urllib.parse.unquote(found[1])
        name = name or _name_in(body)
        expected = query.get("ifGenerationMatch")
        if name and expected is not None and self._generation(name) != expected:
            return 412, {}, b"{}"
        status, headers, answer = self._ask(self.command, self.path, body)
        if status in (200, 206) and query.get("alt") == "media" and name:
            headers["x-goog-generation"] = self._generation(name)
        return status, headers, answer

    def _generation(self, name):
        quoted = urllib.parse.quote(name, safe="")
        status, _, answer = self._ask("GET", f"/storage/v1/b/{BUCKET}/o/{quoted}", b"", plain=True)
        return json.loads(answer)["generation"] if status == 200 else "0"

    def _ask(self, method, path, body, plain=False):
        headers = {} if plain else {k: v for k, v in self.headers.items() if k.lower() not in HOP[:-3]}
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            connection.request(method, path, body or (None if method == "GET" else b""), headers)
            response = connection.getresponse()
            answer = response.read()
            kept = {k: v for k, v in response.getheaders() if k.lower() not in HOP}
            if method == "HEAD":
                kept["content-length"] = response.getheader("content-length", "0")
            return response.status, kept, answer
        finally:
            connection.close()

    def _answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in headers:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _name_in(body):
    found = re.search(rb'"name": *"([^"]+)"', body[:4096])
    return found and found[1].decode()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # killed clients


@contextlib.contextmanager
def emulated(scheme):
    """Yields a `Store` with an empty bucket."""
    port, upstream = free_port(), free_port()
    address = f"http://127.0.0.1:{port}"
    if scheme == "gs":
        from gcp_storage_emulator.server import create_server

        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)  # it logs missing objects
        emulator = create_server("127.0.0.1", upstream, in_memory=True, default_bucket=BUCKET)
        emulator.start()
        environment = {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}
        environment["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # needs credentials
    else:
        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        emulator = ThreadedMotoServer(ip_address="127.0.0.1", port=upstream, verbose=False)
        emulator.start()
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        environment = {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"} | keys
        boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{upstream}",
            region_name="us-east-1",
            **{name.lower(): value for name, value in keys.items()},
        ).create_bucket(Bucket=BUCKET)
    store = Store(scheme, environment)
    handler = type("Handler", (_Handler,), {"store": store, "upstream": upstream, "turn": threading.Lock()})
    proxy = _Server(("127.0.0.1", port), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield store
    finally:
        proxy.shutdown()
        proxy.server_close()
        emulator.stop()
