"""Whatever a syslog message holds, it is one message, which a reader that others wrote takes apart again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.core.syslog import Message, Severity, octet_counted
from tests.support.syslog_reader import read_syslog

NASTY = st.text(st.sampled_from('"\\]= [\n\r\x1b\u2028\u202e\x85\ud800<>1') | st.characters(), max_size=40)


@given(
    severity=st.sampled_from(Severity),
    milliseconds=st.integers(-(2**53) + 1, 2**53 - 1),
    kind=NASTY,
    value=NASTY,
    text=NASTY,
    host=NASTY,
)
def test_a_message_is_one_record(
    severity: Severity, milliseconds: int, kind: str, value: str, text: str, host: str
) -> None:
    """Nothing in it ends it, adds a parameter or a header to it, or speaks to a terminal."""
    message = Message(
        severity=severity, milliseconds=milliseconds, kind=kind, data={"seq": "7", "is": value}, text=text
    )
    encoded = message.encode(host)
    assert encoded.decode().isprintable()
    read = read_syslog(encoded)
    assert (read.facility, read.severity) == (13, severity)
    assert read.data == {"seq": "7", "is": _told(value)}
    assert read.text == _told(text)
    length, _, rest = octet_counted(encoded).partition(b" ")
    assert (int(length), rest) == (len(encoded), encoded)


def _told(text: str) -> str:
    """Return what of a text arrives: all of it if it is printable, else with numbers where it is not."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
