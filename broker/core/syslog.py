"""Syslog messages (RFC 5424): one message is one record, whatever stands in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from broker.core.escaping import escaped, printable
from broker.core.moment import rfc3339

APPLICATION: Final = "broker"
FACILITY: Final = 13
"""Log audit (RFC 5424, 6.2.1)."""

SD_ID: Final = "broker@32473"
"""Whose parameters these are. The number is the one that IANA keeps for documentation (RFC 5612): we have no own."""

MAX_KIND: Final = 32
MAX_HOST: Final = 255

_NOT_PRINTUSASCII: Final = re.compile(r"[^!-~]")
_NIL: Final = "-"
_SPECIAL: Final = '"\\]'


class Severity(IntEnum):
    """How grave it is (RFC 5424, 6.2.1)."""

    ERROR = 3
    WARNING = 4
    INFORMATIONAL = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message. ``milliseconds`` is Unix time; ``kind`` becomes the MSGID, shortened to 32 printable letters.

    ``data`` are the parameters of its structured data: any texts, under names that are letters only.
    """

    severity: Severity
    milliseconds: int
    kind: str
    data: Mapping[str, str]
    text: str

    def encode(self, host: str) -> bytes:
        """Return the message as it is sent by the machine ``host``, in UTF-8, without a line end."""
        header = (
            f"<{FACILITY * 8 + self.severity}>1",
            rfc3339(self.milliseconds),
            _word(host, MAX_HOST),
            APPLICATION,
            _NIL,
            _word(self.kind, MAX_KIND),
        )
        data = "".join(f' {name}="{escaped(value, _SPECIAL)}"' for name, value in self.data.items())
        return f"{' '.join(header)} [{SD_ID}{data}] {printable(self.text)}".encode()


def octet_counted(message: bytes) -> bytes:
    """Return a message as a frame for a stream (RFC 5425, 4.3; RFC 6587, 3.4.1)."""
    return b"%d %b" % (len(message), message)


def _word(text: str, longest: int) -> str:
    return _NOT_PRINTUSASCII.sub("_", text)[:longest] or _NIL
