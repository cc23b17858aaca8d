"""Answers of AWS are bounded: in bytes, and in the time that they take altogether.

Boto reads an answer to its end, however long that is, and its time-outs are those of single reads.
"""

from __future__ import annotations

import io
import time
from typing import Any, Final

import urllib3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse  # type: ignore[import-untyped]
from botocore.exceptions import ConnectionClosedError, ReadTimeoutError  # type: ignore[import-untyped]

from broker.backends.aws_failures import refused

MAX_ANSWER: Final = 1024 * 1024
"""Bytes of the longest answer. A secret of Secrets Manager has 64 KiB at most."""

_CHUNK: Final = 64 * 1024


def bound_answers(client: Any, name: str, seconds: float) -> None:  # noqa: ANN401 - boto3's clients are untyped
    """Make a client give up on answers longer than :data:`MAX_ANSWER` or slower than ``seconds``.

    ``name`` is the backend's.
    """
    session = client._endpoint.http_session  # noqa: SLF001 - boto has no other place where an answer is still unread

    def send(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        request.stream_output = True
        started = time.monotonic()
        response = session.send(request)
        return _Read(response, _read(response, name, started + seconds))

    client.meta.events.register("before-send", send)


class _Read(AWSResponse):  # type: ignore[misc]
    """An answer that has been read."""

    def __init__(self, response: AWSResponse, content: bytes) -> None:
        # What boto hands out as a stream, such as an object of S3, it reads from here.
        super().__init__(response.url, response.status_code, response.headers, io.BytesIO(content))
        self._content = content


def _read(response: AWSResponse, name: str, until: float) -> bytes:
    """Read an answer, a piece at a time, and let go of its connection."""
    raw: urllib3.HTTPResponse = response.raw
    content = bytearray()
    try:
        while piece := raw.read1(_CHUNK):
            content += piece
            if len(content) > MAX_ANSWER:
                raw.close()
                raise refused(f"{name}: an answer of AWS is longer than {MAX_ANSWER} bytes", uncertain=True)
            if time.monotonic() > until:
                raw.close()
                raise ReadTimeoutError(endpoint_url=response.url)
    except urllib3.exceptions.TimeoutError as error:
        raise ReadTimeoutError(endpoint_url=response.url) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ConnectionClosedError(endpoint_url=response.url) from error
    raw.release_conn()
    return bytes(content)
