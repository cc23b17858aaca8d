"""Whatever an entry holds, the readers that others wrote get out of each format what was put in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from google.protobuf.json_format import Parse
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from syslogcef.validation import validate_extensions

from broker.core.entry import MAX_INT, Kind
from broker.core.exporting import FORMATS, Event, syslog_message
from broker.core.exporting.ocsf import SCHEMA
from tests.properties.test_exporting_properties import MEMBERS, SOURCE, read_cef
from tests.support.syslog_reader import read_syslog

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    TEXTS | st.booleans() | st.integers(-MAX_INT, MAX_INT),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(TEXTS, inner, min_size=1, max_size=3),
    max_leaves=6,
)
WHOLE = st.tuples(MEMBERS, st.dictionaries(st.sampled_from(["budget", "details", "purpose"]), VALUES)).map(
    lambda parts: {**parts[0], **parts[1]}
)
FULL: dict[str, Any] = {
    "v": 1,
    "at": 1_795_300_000_123,
    "agent": "alpha",
    "role": "support",
    "task": "task_1",
    "ref": "tok_1",
    "scope": "tickets:read tickets:comment",
    "audience": "https://tickets.internal",
    "address": "10.0.0.5",
    "request": "req_1",
    "trace": "0af7651916cd43dd8448eb211c80319c",
    "code": "scope_not_allowed",
    "reason": "the role does not have it",
    "by": "operator",
}
KINDS = [*(kind.value for kind in Kind), "thing.made", "thing"]


@given(members=WHOLE, seq=st.integers(0, MAX_INT))
def test_cloudevents_sdk(members: dict[str, Any], seq: int) -> None:
    """The SDK of CloudEvents takes it for a valid event, whose data is the entry."""
    event = JSONFormat().read(CloudEvent, FORMATS["cloudevents"].line(Event(seq, members, SOURCE)))
    assert (event.get_id(), event.get_source(), event.get_data()) == (str(seq), SOURCE, members)
    assert event.get_type() == f"broker.{members['kind']}.v1"
    assert event.get_datacontenttype() == "application/json"


@given(entries=st.lists(WHOLE, min_size=1, max_size=3))
def test_otlp_messages(entries: list[dict[str, Any]]) -> None:
    """A batch is one request of OpenTelemetry's logs service, each record of which holds its whole entry."""
    lines = [FORMATS["otlp"].line(Event(seq, members, SOURCE)) for seq, members in enumerate(entries)]
    request = Parse(FORMATS["otlp"].batch(lines), ExportLogsServiceRequest())
    records = [record for logs in request.resource_logs for scope in logs.scope_logs for record in scope.log_records]
    assert [_plain(record.body) for record in records] == entries
    for seq, (record, members) in enumerate(zip(records, entries, strict=True)):
        attributes = {attribute.key: _plain(attribute.value) for attribute in record.attributes}
        assert (attributes["broker.seq"], attributes["broker.kind"]) == (seq, members["kind"])
        assert record.event_name == f"broker.{members['kind']}"
        assert record.time_unix_nano == min(max(0, members["at"] * 1_000_000), 2**64 - 1)
    assert {_plain(value.value) for logs in request.resource_logs for value in logs.resource.attributes} == {
        "credential-broker",
        SOURCE,
    }


def test_otlp_trace() -> None:
    """A record belongs to the trace of its request; what is no trace id is left out."""
    for trace, wanted in ((FULL["trace"], FULL["trace"]), ("0" * 32, ""), ("x", ""), ("0AF7" * 8, "")):
        line = FORMATS["otlp"].line(Event(0, {**FULL, "kind": "token.issued", "trace": trace}, SOURCE))
        # Unlike in other JSON of Protocol Buffers, ids are hexadecimal in that of OTLP.
        found = json.loads(line)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0].get("traceId", "")
        assert found == wanted


@pytest.mark.parametrize("form", list(FORMATS))
@given(members=MEMBERS, seq=st.integers(0, MAX_INT))
def test_syslog_carries_every_format(form: str, members: dict[str, Any], seq: int) -> None:
    """The line arrives as it was, and its place and kind beside it."""
    event = Event(seq, members, SOURCE)
    line = FORMATS[form].line(event)
    read = read_syslog(syslog_message(event, line).encode("broker-1"))
    assert read.text == line
    assert read.data == {"seq": str(seq), "kind": members["kind"], "source": SOURCE}
    assert read.severity == (3 if event.is_grave else 4 if event.is_refusal else 6)


@pytest.fixture(scope="module")
def ocsf() -> OcsfJsonSchemaEmbedded:
    """Return the published schema, of the version that events say."""
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(SCHEMA))


@pytest.mark.parametrize("kind", KINDS)
def test_ocsf_schema(ocsf: OcsfJsonSchemaEmbedded, kind: str) -> None:
    """An event of each kind, with everything that an entry can say and with nothing, is valid for its class."""
    for members in ({**FULL, "kind": kind}, {"v": 1, "kind": kind, "at": 1}, {**FULL, "kind": kind, "address": "::1"}):
        told = json.loads(FORMATS["ocsf"].line(Event(7, members, SOURCE)))
        schema = ocsf.get_class_schema(ocsf.lookup_class_name_from_uid(told["class_uid"]))
        assert [error.message for error in Draft202012Validator(schema).iter_errors(told)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_cef_dictionary(kind: str) -> None:
    """Every key is in the dictionary of CEF, and every value of the type and length that it has there."""
    long = dict.fromkeys(("agent", "role", "task", "ref", "scope", "audience", "reason", "by"), "x" * 2000)
    for members in (FULL, {**FULL, "address": "::1"}, {**FULL, "address": "nowhere"}, {**FULL, **long}):
        _, pairs = read_cef(FORMATS["cef"].line(Event(7, {**members, "kind": kind}, "u" * 100)))
        assert [str(finding) for finding in validate_extensions(pairs)] == []


def _plain(value: AnyValue) -> Any:  # noqa: ANN401 - JSON
    """Return what a value of OpenTelemetry stands for."""
    match value.WhichOneof("value"):
        case "kvlist_value":
            return {pair.key: _plain(pair.value) for pair in value.kvlist_value.values}
        case "array_value":
            return [_plain(item) for item in value.array_value.values]
        case name:
            return getattr(value, str(name))
