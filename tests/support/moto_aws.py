"""AWS as moto has it: a server of its own process on loopback, and a relay before it that records and breaks things."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config  # type: ignore[import-untyped]

from broker.core.secret import Secret
from tests.support.running_broker import free_port

REGION = "eu-central-1"
ACCOUNT = "123456789012"
START_SECONDS = 60.0
SECRET_KEY = "testing-secret-key"
AwsClient = Any
"""A client of boto3, which has no types."""


@dataclass(frozen=True)
class Asked:
    """A request as it was sent: the action, and its parameters by name (of Query APIs: flat, such as ``Tags.…``)."""

    action: str
    parameters: dict[str, Any]
    access_key: str


@dataclass
class Fault:
    """What the relay does instead of passing moto's answer on: it waits, then answers; without a status it hangs up.

    With ``after``, moto has done what was asked.
    """

    status: int | None = None
    body: bytes = b""
    seconds: float = 0.0
    after: bool = False


@dataclass
class Relay:
    """Passes requests on to moto, and keeps them. ``fault`` says for each request whether something breaks."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    fault: Callable[[Asked], Fault | None] = lambda _: None

    def of(self, action: str) -> list[Asked]:
        """Return the requests of an action, such as ``AssumeRole``."""
        return [asked for asked in self.asked if asked.action == action]


@contextmanager
def moto_server(folder: Path) -> Iterator[str]:
    """Run moto; yields its URL. Its output is in ``folder``."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": "1", "PYTHONWARNINGS": "default"}
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _wait(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None:
            pytest.fail(f"moto_server ended with {process.returncode}")
        try:
            _post(f"127.0.0.1:{port}", "/moto-api/reset")
        except OSError:
            if time.monotonic() > until:
                pytest.fail("moto_server does not answer")
            time.sleep(0.05)
        else:
            return


def reset(url: str) -> None:
    """Make moto forget everything."""
    _post(url.removeprefix("http://"), "/moto-api/reset")


def _post(host: str, path: str) -> None:
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("POST", path)
        connection.getresponse().read()
    finally:
        connection.close()


@contextmanager
def relay_to(upstream: str) -> Iterator[Relay]:
    """Run a relay before moto."""
    relay = Relay("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(relay, upstream.removeprefix("http://")))
    server.daemon_threads = True
    relay.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield relay
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(relay: Relay, host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            asked = _asked(self.headers, body)
            relay.asked.append(asked)
            fault = relay.fault(asked)
            if fault is None:
                self._answer(*self._forward(body))
                return
            if fault.after:
                self._forward(body)
            time.sleep(fault.seconds)
            if fault.status is not None:
                self._answer(fault.status, {"Content-Type": "text/xml"}, fault.body)
            self.close_connection = True

        def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(host, timeout=30)
            try:
                headers = {**dict(self.headers), "Host": host}
                connection.request("POST", self.path, body, headers)
                response = connection.getresponse()
                return response.status, dict(response.headers), response.read()
            finally:
                connection.close()

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() in {"content-type", "x-amzn-requestid", "x-amzn-errortype"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    return Handler


def _asked(headers: Message, body: bytes) -> Asked:
    key = headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
    target = headers.get("X-Amz-Target")
    if target is not None:
        return Asked(target.partition(".")[2], json.loads(body), key)
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    return Asked(form.get("Action", ""), form, key)


def query_error(code: str, status: int = 400) -> Fault:
    """Return an error as STS and IAM answer it, with a message that must not be seen."""
    body = f"<ErrorResponse><Error><Code>{code}</Code><Message>hush-hush</Message></Error></ErrorResponse>"
    return Fault(status, body.encode())


def json_error(code: str, status: int = 400) -> Fault:
    """Return an error as Secrets Manager answers it, with a message that must not be seen."""
    return Fault(status, json.dumps({"__type": code, "message": "hush-hush"}).encode())


def once(fault: Fault, *actions: str) -> Callable[[Asked], Fault | None]:
    """Return what breaks the first request of each of these actions."""
    left = set(actions)

    def broken(asked: Asked) -> Fault | None:
        if asked.action not in left:
            return None
        left.discard(asked.action)
        return fault

    return broken


def always(fault: Fault, *actions: str) -> Callable[[Asked], Fault | None]:
    """Return what breaks every request of these actions."""
    return lambda asked: fault if asked.action in actions else None


async def own_token(audience: str) -> Secret:
    """Return an identity token of the broker, as far as moto looks at it."""
    return Secret(f"jwt-of-the-broker-for-{audience}")


def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give boto credentials for moto, and keep it from looking anywhere else."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    values = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@contextmanager
def client(service: str, url: str) -> Iterator[AwsClient]:
    """Return a client of moto itself, to look at what there is."""
    made = boto3.Session("testing", SECRET_KEY, region_name=REGION).client(
        service, endpoint_url=url, config=Config(retries={"total_max_attempts": 1})
    )
    try:
        yield made
    finally:
        made.close()
