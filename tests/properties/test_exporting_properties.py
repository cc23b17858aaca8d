"""Whatever an entry holds, an exported line is one line, and a reader of its format gets out what was put in."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.entry import Kind, encode
from broker.core.exporting import FORMATS, Event
from broker.core.exporting.cef import MAX_VALUE

NASTY = st.text(
    st.sampled_from('|=\\\n\r\x1b\u2028\u202e\x85 "{}a') | st.characters(exclude_categories=["Cs"]), max_size=40
)
NAMES = ("agent", "ref", "task", "role", "scope", "audience", "by", "reason", "code", "purpose", "address", "trace")
MEMBERS = st.fixed_dictionaries(
    {
        "v": st.just(1),
        "kind": st.sampled_from([kind.value for kind in Kind]),
        "at": st.integers(-(2**53) + 1, 2**53 - 1),
    },
    optional=dict.fromkeys(NAMES, NASTY),
)
SOURCE = "urn:example:ledger"
HOSTILE = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), st.text(st.characters(), max_size=40)).flatmap(
    lambda members: st.fixed_dictionaries({"kind": NASTY | st.just("\ud800"), "at": st.integers(0, 2**53 - 1)}).map(
        lambda needed: {**members, **needed}
    )
)
"""Entries of a later version, or of nobody's: any kind, any members, texts that are no Unicode."""


def read_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """Read a line of CEF as its white paper says: seven unescaped bars, then keys before unescaped equals signs."""
    parts = re.split(r"(?<!\\)(?:\\\\)*\|", line, maxsplit=7)
    header = [re.sub(r"\\([\\|])", r"\1", part) for part in parts[:7]]
    places = list(re.finditer(r"(?:^| )([A-Za-z0-9]+)=", parts[7]))
    ends = [place.start() for place in places[1:]] + [len(parts[7])]
    raw = {place[1]: parts[7][place.end() : end] for place, end in zip(places, ends, strict=True)}
    assert len(raw) == len(places), "a key came twice"
    kept = {"\\n": "\n", "\\r": "\r"}
    return header, {
        key: re.sub(r"\\(.)", lambda found: kept.get(found[0], found[1]), value) for key, value in raw.items()
    }


@pytest.mark.parametrize("form", list(FORMATS))
@given(members=MEMBERS, seq=st.integers(0, 2**53 - 1))
def test_one_entry_is_one_printable_line(form: str, members: dict[str, Any], seq: int) -> None:
    """No text ends the line, moves a cursor, or turns the direction of writing."""
    line = FORMATS[form].line(Event(seq, members, SOURCE))
    assert line.isprintable()
    assert line.splitlines() == [line]


@pytest.mark.parametrize("form", list(FORMATS))
@given(members=st.lists(HOSTILE, min_size=1, max_size=3))
def test_what_is_not_known_comes_through(form: str, members: list[dict[str, Any]]) -> None:
    """An entry of a kind that this version does not know is a line too, and a batch of lines can be encoded."""
    lines = [FORMATS[form].line(Event(seq, entry, SOURCE)) for seq, entry in enumerate(members)]
    assert all(line.splitlines() == [line] and line.isprintable() for line in lines)
    assert len(FORMATS[form].batch(lines).encode()) >= sum(map(len, lines)) - len(lines) * 30


@given(members=MEMBERS, seq=st.integers(0, 2**53 - 1))
def test_json_lines_lose_nothing(members: dict[str, Any], seq: int) -> None:
    """The canonical bytes, whose hash is in the tree, can be made again."""
    told = json.loads(FORMATS["jsonl"].line(Event(seq, members, SOURCE)))
    assert (told["seq"], encode(told["entry"])) == (seq, encode(members))


@given(members=MEMBERS, seq=st.integers(0, 2**53 - 1))
def test_cloudevents(members: dict[str, Any], seq: int) -> None:
    """The attributes that CloudEvents 1.0 requires are texts that are not empty, and the data is the entry."""
    told = json.loads(FORMATS["cloudevents"].line(Event(seq, members, SOURCE)))
    assert (told["specversion"], told["id"], told["source"], told["data"]) == ("1.0", str(seq), SOURCE, members)
    assert told["type"] == f"broker.{members['kind']}.v1"
    assert told.get("subject") != ""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["time"])


@given(members=MEMBERS, seq=st.integers(0, 2**53 - 1))
def test_cef(members: dict[str, Any], seq: int) -> None:
    """A reader finds the header's seven parts, and each key with what the entry has, none of them made up."""
    header, pairs = read_cef(FORMATS["cef"].line(Event(seq, members, SOURCE)))
    assert [*header[:3], header[4]] == ["CEF:0", "credential-broker", "broker", members["kind"]]
    assert 0 <= int(header[6]) <= 10
    assert (pairs["externalId"], pairs["rt"]) == (str(seq), str(members["at"]))
    for name, key in (("agent", "suser"), ("reason", "reason"), ("task", "cs1"), ("scope", "cs4"), ("by", "cs6")):
        wanted = "".join(
            letter if letter.isprintable() or letter in "\r\n" else f"\\x{ord(letter):02x}"
            for letter in members.get(name, "")[:MAX_VALUE]
        )
        assert pairs.get(key, "") == wanted


@given(members=MEMBERS, seq=st.integers(0, 2**53 - 1))
def test_ocsf(members: dict[str, Any], seq: int) -> None:
    """Class, category and activity belong together, and the whole entry is kept."""
    told = json.loads(FORMATS["ocsf"].line(Event(seq, members, SOURCE)))
    assert told["type_uid"] == told["class_uid"] * 100 + told["activity_id"]
    assert told["category_uid"] == told["class_uid"] // 1000
    assert told["unmapped"] == {"entry": members}
    assert (told["status_id"] == 2) == members["kind"].endswith(".refused")
    assert told["metadata"]["uid"] == str(seq)
