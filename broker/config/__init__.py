"""The settings of a broker: a TOML file and the environment, checked as a whole, into frozen values."""

from broker.config.addresses import issuer_problem
from broker.config.anchors import (
    ANCHOR_KINDS,
    AnchorSettings,
    FileAnchorSettings,
    S3AnchorSettings,
    SyslogAnchorSettings,
    WitnessAnchorSettings,
    kind_of,
)
from broker.config.backends import (
    BACKEND_KINDS,
    AwsSettings,
    BackendSettings,
    LocalSettings,
    VaultSettings,
    VaultSignIn,
)
from broker.config.loading import MAX_FILE, MAX_WORKERS, load_config
from broker.config.problems import ConfigError
from broker.config.settings import (
    Config,
    FeedSettings,
    LeaseSettings,
    LedgerSettings,
    Limits,
    Listen,
    Log,
    MasterKey,
    OperatorSettings,
    Webhook,
    WorkerSettings,
)

__all__ = [
    "ANCHOR_KINDS",
    "BACKEND_KINDS",
    "MAX_FILE",
    "MAX_WORKERS",
    "AnchorSettings",
    "AwsSettings",
    "BackendSettings",
    "Config",
    "ConfigError",
    "FeedSettings",
    "FileAnchorSettings",
    "LeaseSettings",
    "LedgerSettings",
    "Limits",
    "Listen",
    "LocalSettings",
    "Log",
    "MasterKey",
    "OperatorSettings",
    "S3AnchorSettings",
    "SyslogAnchorSettings",
    "VaultSettings",
    "VaultSignIn",
    "Webhook",
    "WitnessAnchorSettings",
    "WorkerSettings",
    "issuer_problem",
    "kind_of",
    "load_config",
]
