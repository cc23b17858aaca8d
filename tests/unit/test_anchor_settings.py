"""Settings of anchors: each has those of its kind, and what cannot work is named when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config import (
    Config,
    ConfigError,
    FileAnchorSettings,
    S3AnchorSettings,
    SyslogAnchorSettings,
    WitnessAnchorSettings,
    kind_of,
    load_config,
)

MINIMAL = 'issuer = "https://broker.example"\n'
GOOD = """
[anchors.offsite]
kind = "file"
path = "evidence/anchor.jsonl"
every_seconds = 5

[anchors.locked]
kind = "s3"
bucket = "evidence"
region = "eu-central-1"
retain_days = 400
mode = "governance"

[anchors.w1]
kind = "witness"
url = "https://witness.example"
vkey = "witness.example/w1+00000000+AAAA"
ca_file = "ca.pem"

[anchors.logs]
kind = "syslog"
url = "syslog+tls://logs.internal"
certificate = "us.pem"
key = "us.key"
"""
FILE = MINIMAL + '[anchors.a]\nkind = "file"\n'
S3 = MINIMAL + '[anchors.a]\nkind = "s3"\nregion = "x"\n'
SYSLOG = MINIMAL + '[anchors.a]\nkind = "syslog"\n'
WITNESS = MINIMAL + '[anchors.a]\nkind = "witness"\nvkey = "v"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the settings file is."""
    return tmp_path / "broker.toml"


def load(file: Path, text: str) -> Config:
    """Write and load settings."""
    file.write_text(text)
    return load_config(file, {})


def test_each_kind_has_its_settings(file: Path) -> None:
    """Paths are taken from the folder of the file; the names are the operator's own."""
    anchors = load(file, MINIMAL + GOOD).anchors
    assert list(anchors) == ["offsite", "locked", "w1", "logs"]
    offsite, locked, witness, logs = anchors.values()
    assert offsite == FileAnchorSettings(path=str(file.parent / "evidence/anchor.jsonl"), every_seconds=5.0)
    assert isinstance(locked, S3AnchorSettings)
    assert (locked.mode, locked.retain_days, locked.prefix, locked.every_seconds) == ("governance", 400, "", 60.0)
    assert isinstance(witness, WitnessAnchorSettings)
    assert (witness.ca_file, witness.allow_http) == (str(file.parent / "ca.pem"), False)
    assert [kind_of(each) for each in anchors.values()] == ["file", "s3", "witness", "syslog"]
    assert isinstance(logs, SyslogAnchorSettings)
    assert (logs.certificate, logs.key) == (str(file.parent / "us.pem"), str(file.parent / "us.key"))
    assert load(file, MINIMAL).anchors == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("anchors = 5\n" + MINIMAL, "anchors"),
        (MINIMAL + "[anchors.a]\n", "anchors.a.kind: must be one of file, s3, witness, syslog"),
        (MINIMAL + '[anchors.a]\nkind = "carrier-pigeon"\n', "anchors.a.kind: must be one of"),
        (MINIMAL + "[anchors.a]\nkind = 7\n", "anchors.a.kind: must be one of"),
        (MINIMAL + '[anchors."A b"]\nkind = "file"\npath = "x"\n', "anchors.A b: a name has"),
        (MINIMAL + f'[anchors.{"a" * 64}]\nkind = "file"\npath = "x"\n', "a name has"),
        (MINIMAL + '[anchors.-a]\nkind = "file"\npath = "x"\n', "a name has"),
        (FILE, "anchors.a: Object missing required field `path`"),
        (FILE + 'path = ""\n', "anchors.a.path: must not be empty"),
        (FILE + 'path = "x"\nbucket = "b"\n', "anchors.a: Object contains unknown field `bucket`"),
        (FILE + 'path = "x"\nevery_seconds = 0.5\n', "anchors.a.every_seconds: must be 1 at least"),
        (FILE + 'path = "x"\nevery_seconds = nan\n', "anchors.a.every_seconds: must be 1 at least"),
        (FILE + 'path = "x"\nevery_seconds = 900\n', "anchors.a.alarm_seconds: must be above every_seconds"),
        (FILE + 'path = "x"\nalarm_seconds = inf\n', "anchors.a.alarm_seconds: must be above every_seconds"),
        (FILE + 'path = "x"\ntimeout_seconds = 0\n', "anchors.a.timeout_seconds: must be above 0"),
        (S3 + 'bucket = "b"\n', "anchors.a: Object missing required field `retain_days`"),
        (S3 + 'bucket = "b"\nretain_days = 0\n', "retain_days be 1 at least"),
        (S3 + 'bucket = ""\nretain_days = 1\n', "bucket must not be empty"),
        (S3 + 'bucket = "b"\nretain_days = 1\nprefix = "p"\n', "anchors.a.prefix: must end in a slash"),
        (S3 + 'bucket = "b"\nretain_days = 1\nmode = "none"\n', "anchors.a.mode: Invalid enum value"),
        (S3 + 'bucket = "b"\nretain_days = 1\nendpoint = "http://moto"\n', "anchors.a.endpoint: must be https://"),
        (WITNESS + 'url = "http://127.0.0.1"\n', "anchors.a.url: must be https://, or http:// with allow_http"),
        (WITNESS + 'url = "ftp://x"\nallow_http = true\n', "anchors.a.url: must be https://"),
        (SYSLOG, "anchors.a: Object missing required field `url`"),
        (SYSLOG + 'url = "syslog+tls://h"\ncertificate = "c"\n', "certificate and key: give both or neither"),
        (SYSLOG + 'url = "syslog+udp://h"\nca_file = "c"\n', "have a meaning for syslog+tls:// only"),
        (SYSLOG + 'url = "syslog+tcp://h"\nserver_name = "s"\n', "have a meaning for syslog+tls:// only"),
    ],
    ids=range(27),
)
def test_an_anchor_that_cannot_be_used(file: Path, text: str, says: str) -> None:
    """The message names the anchor and the key."""
    with pytest.raises(ConfigError) as raised:
        load(file, text)
    assert str(raised.value).startswith(f"{file}: ")
    assert says in str(raised.value)
