"""A reader of syslog messages (RFC 5424) that others wrote."""

from __future__ import annotations

from dataclasses import dataclass

from syslogcef.parsers import parse_rfc5424

from broker.core.syslog import SD_ID


@dataclass(frozen=True)
class SyslogMessage:
    """What a receiver makes of a message."""

    facility: int
    severity: int
    kind: str | None
    data: dict[str, str]
    text: str


def read_syslog(message: bytes) -> SyslogMessage:
    """Return a message; the names of its structured data without whose they are."""
    read = parse_rfc5424(message.decode())
    assert read is not None
    data = {name.removeprefix(f"{SD_ID}."): value for name, value in read.sd.items()}
    facility, severity = divmod(read.pri, 8)
    return SyslogMessage(facility, severity, read.msgid, data, read.msg)
