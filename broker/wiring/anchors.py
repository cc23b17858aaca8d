"""Composing the anchors that are configured. No logic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from broker.anchoring import Anchoring, Means, Pace
from broker.anchors.file import FileAnchor
from broker.anchors.syslog import SyslogAnchor
from broker.anchors.witness import WitnessAnchor
from broker.config import (
    AnchorSettings,
    Config,
    FileAnchorSettings,
    S3AnchorSettings,
    SyslogAnchorSettings,
    WitnessAnchorSettings,
    kind_of,
)
from broker.core.errors import Code, Malformed, Unavailable
from broker.core.secret import Secret
from broker.delivery.syslog import SyslogTarget, syslog_target
from broker.outbound import Destination, Outbound
from broker.ports import Anchor, Clock
from broker.signing.checkpoint import VerifierKeyError

OwnToken = Callable[[str], Awaitable[Secret]]
"""Signs an identity token of the broker's own for an audience."""


def open_anchoring(config: Config, outbound: Outbound, means: Means, *, own_token: OwnToken) -> Anchoring:
    """Return the configured anchors. None is asked for anything yet.

    Raises ``Unavailable`` with a text for the operator if one cannot be used as it is configured.
    """
    anchors = open_anchors(config, outbound, means.clock, own_token=own_token)
    return Anchoring(
        {
            name: (
                anchors[name],
                Pace(kind=kind_of(each), every_seconds=each.every_seconds, alarm_seconds=each.alarm_seconds),
            )
            for name, each in config.anchors.items()
        },
        means,
    )


def open_anchors(config: Config, outbound: Outbound, clock: Clock, *, own_token: OwnToken) -> Mapping[str, Anchor]:
    """Return the configured anchors alone, by name. Raises ``Unavailable`` like :func:`open_anchoring`."""
    return {name: _anchor(name, each, outbound, clock, own_token) for name, each in config.anchors.items()}


def _anchor(name: str, settings: AnchorSettings, outbound: Outbound, clock: Clock, own_token: OwnToken) -> Anchor:
    match settings:
        case FileAnchorSettings():
            return FileAnchor(Path(settings.path), clock=clock, timeout_seconds=settings.timeout_seconds)
        case WitnessAnchorSettings():
            destination = Destination(
                allow_http=settings.allow_http, allow_private=settings.allow_private, ca_file=settings.ca_file
            )
            try:
                return WitnessAnchor(settings.url, settings.vkey, outbound, destination, clock=clock)
            except VerifierKeyError as error:
                raise Unavailable(Code.INTERNAL, f"anchors.{name}.vkey: {error}") from error
        case SyslogAnchorSettings():
            return SyslogAnchor(_syslog_target(name, settings), clock=clock)
        case S3AnchorSettings():
            return _s3(name, settings, clock, own_token)


def _syslog_target(name: str, settings: SyslogAnchorSettings) -> SyslogTarget:
    try:
        target = syslog_target(settings.url)
    except Malformed as error:
        raise Unavailable(Code.INTERNAL, f"anchors.{name}.url: {error.public}") from error
    return replace(
        target,
        ca_file=settings.ca_file,
        server_name=settings.server_name,
        certificate=settings.certificate,
        key=settings.key,
    )


def _s3(name: str, settings: S3AnchorSettings, clock: Clock, own_token: OwnToken) -> Anchor:
    try:
        from broker.anchors.s3 import LockedBucket, S3Anchor  # noqa: PLC0415 - needs boto3 only if it is used
        from broker.backends.aws_session import AwsAccount  # noqa: PLC0415 - as above
    except ImportError as error:
        raise Unavailable(Code.INTERNAL, f"anchors.{name}: install credential-broker[aws]") from error
    account = AwsAccount(
        region=settings.region,
        endpoint=settings.endpoint,
        web_identity_role=settings.web_identity_role,
        concurrency=2,
        timeout_seconds=settings.timeout_seconds,
    )
    place = LockedBucket(
        bucket=settings.bucket,
        prefix=settings.prefix,
        mode=settings.mode.upper(),
        retain_days=settings.retain_days,
    )
    return S3Anchor(f"anchors.{name}", place, account, clock=clock, own_token=own_token)
