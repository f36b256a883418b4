"""Servers for tests on this machine: S3 and Google Cloud Storage, and a proxy before them that fails on purpose."""

import contextlib
import http.client
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request


@contextlib.contextmanager
def process(command, port, **environment):
    """Runs a server until the end of the block; it listens on the port before the block begins."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if server.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"{command[0]} ended: {log.read()[-2000:]!r}")
                time.sleep(0.1)
            yield
        finally:
            server.terminate()
            server.wait(20)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def moto():
    """S3 by moto; the port."""
    port = free_port()
    with process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        yield port


@contextlib.contextmanager
def minio(binary):
    """S3 by MinIO; the port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        address = f"127.0.0.1:{port}"
        command = [binary, "server", "--quiet", "--address", address, folder]
        with process(command, port, MINIO_ROOT_USER="testtest", MINIO_ROOT_PASSWORD="testtest", MINIO_BROWSER="off"):
            for _ in range(100):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://{address}/minio/health/ready", timeout=1).close()
                    break
                time.sleep(0.1)
            yield port


@contextlib.contextmanager
def gcs():
    """Google Cloud Storage by gcp-storage-emulator; the port."""
    port = free_port()
    script = (
        "import sys, gcp_storage_emulator.server as s;"
        "s.create_server('127.0.0.1', int(sys.argv[1]), in_memory=True, default_bucket='bucket').run()"
    )
    with process([sys.executable, "-c", script, str(port)], port):
        yield port


class Proxy:
    """Hands requests on to a server, counts what comes back, and fails as it is told.

    Attributes:
        every: each so-manieth request is not served as it should be; 0 for none.
        how: ``error`` (503), ``reset`` (the connection ends without an answer), ``cut`` (it ends in the middle of the
            body), ``stall`` (no answer for a while).
        delay: seconds before each answer.
        requests, failed, body_bytes: how many there were; bytes of the answers to requests for ranges.
    """

    def __init__(self, port):
        self.upstream, self.every, self.how, self.delay = port, 0, "error", 0.0
        self.stall_s, self.conditions = 3.0, False
        self.reset()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def serve(self):
                proxy.serve(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = serve

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self):
        self.requests, self.failed, self.body_bytes, self.log = 0, 0, 0, []
        self._lock = threading.Lock()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def serve(self, handler):
        body = self._body(handler)
        with self._lock:
            self.requests += 1
            fails = bool(self.every) and self.requests % self.every == 0
            self.failed += fails
            self.log.append((handler.command, handler.path, handler.headers.get("Range")))
        time.sleep(self.delay)
        if fails and self.how == "reset":
            handler.close_connection = True
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            handler.connection.close()
            return
        if fails and self.how == "error":
            handler.send_response(503)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if self.conditions and not self._holds(handler, body):
            handler.send_response(412)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if fails and self.how == "stall":
            time.sleep(self.stall_s)
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=120)
        upstream.request(handler.command, handler.path, body=body or None, headers=dict(handler.headers))
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        with contextlib.suppress(OSError):
            handler.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    handler.send_header(name, value)
            length = answer.getheader("Content-Length") if handler.command == "HEAD" else len(data)
            handler.send_header("Content-Length", str(length or 0))
            handler.end_headers()
            if fails and self.how == "cut":
                handler.wfile.write(data[: len(data) // 2])
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            handler.wfile.write(data)
            with self._lock:
                self.body_bytes += len(data) if handler.headers.get("Range") else 0

    def _holds(self, handler, body):
        """Whether an upload to Google's store finds the generation that it wants, 0 for none."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(handler.path).query)
        wanted = query.get("ifGenerationMatch")
        if not wanted or handler.command != "POST":
            return True
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=120)
        bucket = urllib.parse.urlsplit(handler.path).path.split("/b/")[1].split("/")[0]
        name = urllib.parse.quote(json.loads(re.search(rb"\{.*?\}", body, re.DOTALL)[0])["name"], safe="")
        upstream.request("GET", f"/storage/v1/b/{bucket}/o/{name}")
        answer = upstream.getresponse()
        found = json.loads(answer.read()) if answer.status == 200 else {}
        return str(found.get("generation", 0)) == wanted[0]

    def _body(self, handler):
        if "chunked" in handler.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(handler.rfile.readline().split(b";")[0], 16):
                data += handler.rfile.read(size)
                handler.rfile.readline()
            handler.rfile.readline()
            del handler.headers["Transfer-Encoding"]
            return data
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
