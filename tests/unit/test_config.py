"""Settings: checked as a whole, with messages that name the key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.config import (
    MAX_FILE,
    AwsSettings,
    Config,
    ConfigError,
    LocalSettings,
    MasterKey,
    VaultSettings,
    issuer_problem,
    load_config,
)
from broker.wiring.opening import site_of

MINIMAL = 'issuer = "https://broker.example"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the settings file is."""
    return tmp_path / "broker.toml"


def load(file: Path, text: str, environment: dict[str, str] | None = None, *, port: int | None = None) -> Config:
    """Write and load settings."""
    file.write_text(text)
    return load_config(file, environment or {}, port=port)


def test_the_defaults_suit_a_laptop(file: Path) -> None:
    """Only the issuer must be named: it listens on loopback, and all files are beside the settings."""
    config = load(file, MINIMAL)
    assert (config.listen.host, config.listen.port) == ("127.0.0.1", 8640)
    assert config.policy == file.parent / "policy.yaml"
    assert config.ledger == file.parent / "ledger.db"
    assert config.master_key == MasterKey(file=str(file.parent / "master.key"))
    assert config.operator.key == str(file.parent / "operator.pem")
    assert config.api_audience == "https://broker.example/v1"


def test_paths_are_taken_from_the_files_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the process was started; absolute ones stay."""
    monkeypatch.chdir("/")
    text = MINIMAL + 'policy = "sub/p.yaml"\n[ledger]\npath = "/srv/ledger.db"\n'
    config = load(file, text + '[listen]\ncertificate = "c.pem"\nkey = "k.pem"\n')
    assert config.policy == file.parent / "sub" / "p.yaml"
    assert config.ledger == Path("/srv/ledger.db")
    assert config.listen.certificate == str(file.parent / "c.pem")


def test_whether_agents_are_told_the_place_in_the_ledger(file: Path) -> None:
    """Not unless it is wanted; what the settings say is what the site does."""
    assert not site_of(load(file, MINIMAL)).index_in_answers
    wanted = load(file, MINIMAL + "[ledger]\nindex_in_answers = true\n")
    assert site_of(wanted).index_in_answers
    assert wanted.ledger == file.parent / "ledger.db"


def test_the_environment_wins_in_the_type_of_the_key(file: Path) -> None:
    """Numbers, switches, texts; keys of tables and of the top."""
    config = load(
        file,
        MINIMAL + "[listen]\nport = 1\n",
        {
            "BROKER_LISTEN_PORT": "9000",
            "BROKER_LOG_ACCESS": "false",
            "BROKER_LIMITS_REQUEST_SECONDS": "1.5",
            "BROKER_ISSUER": "https://other.example",
            "BROKER_MASTER_KEY_ENVIRONMENT": "THE_KEY",
            "UNRELATED": "x",
        },
    )
    assert (config.listen.port, config.log.access, config.limits.request_seconds) == (9000, False, 1.5)
    assert config.issuer == "https://other.example"
    assert config.master_key == MasterKey(environment="THE_KEY")


def test_a_port_given_on_the_command_line_moves_a_loopback_issuer(file: Path) -> None:
    """In development the issuer is where the broker listens; a public issuer never changes."""
    config = load(file, 'issuer = "http://127.0.0.1:8640"\n', port=9001)
    assert (config.listen.port, config.issuer) == (9001, "http://127.0.0.1:9001")
    assert load(file, 'issuer = "http://[::1]:8640"\n', port=9001).issuer == "http://[::1]:9001"
    assert load(file, 'issuer = "http://localhost"\n', port=9001).issuer == "http://localhost:9001"
    assert load(file, MINIMAL, port=9001).issuer == "https://broker.example"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "issuer"),
        ("issuer = 7\n", "issuer"),
        ("issuer = \n", "not valid TOML"),
        (MINIMAL + 'isuer = "x"\n', "isuer"),
        (MINIMAL + "[listen]\nprot = 1\n", "listen"),
        (MINIMAL + "[listen]\nport = 65536\n", "listen.port"),
        (MINIMAL + "[listen]\nport = -1\n", "listen.port"),
        (MINIMAL + "[listen]\nport = true\n", "listen.port"),
        (MINIMAL + '[listen]\nport = "80"\n', "listen.port"),
        (MINIMAL + '[listen]\ncertificate = "c.pem"\n', "listen.certificate"),
        (MINIMAL + '[listen]\nkey = "k.pem"\n', "listen.key"),
        (MINIMAL + '[listen]\nhost = "0.0.0.0"\n', "listen.host"),
        (MINIMAL + '[listen]\nhost = "broker.example"\n', "listen.host"),
        (MINIMAL + '[listen]\nmetrics = "9000"\n', "listen.metrics"),
        (MINIMAL + '[listen]\nmetrics = ":9000"\n', "listen.metrics"),
        (MINIMAL + '[listen]\nmetrics = "127.0.0.1:http"\n', "listen.metrics"),
        (MINIMAL + '[listen]\nmetrics = "127.0.0.1:70000"\n', "listen.metrics"),
        (MINIMAL + '[listen]\nmetrics = "127.0.0.1:\u0663"\n', "listen.metrics"),
        ("listen = 5\n" + MINIMAL, "listen"),
        (MINIMAL + 'ledger = "x.db"\n', "ledger"),
        (MINIMAL + '[ledger]\npath = ""\n', "ledger.path"),
        ('policy = ""\n' + MINIMAL, "policy"),
        (MINIMAL + '[operator]\nagent = ""\n', "operator.agent"),
        (MINIMAL + "[master_key]\n", "master_key"),
        (MINIMAL + '[master_key]\nfile = "a"\nenvironment = "B"\n', "master_key"),
        (MINIMAL + '[master_key]\nfile = ""\n', "master_key"),
        (MINIMAL + "[master_key]\ncommand = []\n", "master_key"),
        (MINIMAL + "[ledger]\nretain_days = 182\n", "ledger.retain_days"),
        (MINIMAL + "[ledger]\nretain_days = 0\nretain_less_than_six_months = true\n", "ledger.retain_days"),
        (MINIMAL + "[limits]\nconnections = 0\n", "limits.connections"),
        (MINIMAL + "[limits]\nbody_bytes = -1\n", "limits.body_bytes"),
        (MINIMAL + "[limits]\nrequest_seconds = nan\n", "limits.request_seconds"),
        (MINIMAL + "[limits]\nrequest_seconds = inf\n", "limits.request_seconds"),
        (MINIMAL + '[log]\nlevel = "verbose"\n', "log.level"),
        (MINIMAL + "#" * MAX_FILE, "longer than"),
    ],
    ids=range(35),
)
def test_bad_settings_name_the_file_and_the_key(file: Path, text: str, says: str) -> None:
    """One clear message, no traceback of a library."""
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        load(file, text)
    assert str(refused.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        (MINIMAL, {"BROKER_LISTEN_PORT": "http"}),
        (MINIMAL, {"BROKER_LISTEN_PORT": ""}),
        (MINIMAL, {"BROKER_LOG_LEVEL": "verbose"}),
        (MINIMAL, {"BROKER_LIMITS_CONNECTIONS": "1.5"}),
        ("listen = 5\n" + MINIMAL, {"BROKER_LISTEN_PORT": "1"}),
    ],
)
def test_a_bad_variable_is_refused(file: Path, text: str, environment: dict[str, str]) -> None:
    """It is not ignored, and named unless the file itself is at fault."""
    with pytest.raises(ConfigError, match=r"BROKER_|listen: must be a table"):
        load(file, text, environment)


def test_a_file_that_is_not_text_is_refused(file: Path) -> None:
    """Bytes that are no UTF-8, a folder, and nothing at all."""
    file.write_bytes(b'issuer = "\xff"\n')
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(file, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(file.parent, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(file.parent / "none.toml", {})


def test_plain_http_in_the_open_must_be_said(file: Path) -> None:
    """Only an operator who says that TLS ends in front gets it."""
    behind = 'issuer = "https://broker.example"\ntls_ends_in_front = true\n[listen]\nhost = "0.0.0.0"\n'
    assert load(file, behind).listen.host == "0.0.0.0"
    tls = MINIMAL + '[listen]\nhost = "0.0.0.0"\ncertificate = "c"\nkey = "k"\nmetrics = "127.0.0.1:9100"\n'
    assert load(file, tls).listen.host == "0.0.0.0"


@pytest.mark.parametrize(
    "issuer",
    [
        "https://broker.example",
        "https://b",
        "http://127.0.0.1:8640",
        "http://127.0.0.1",
        "https://127.0.0.1:8443",
        "http://localhost:8640",
        "http://[::1]:8640",
        "https://[::1]",
    ],
)
def test_good_issuers(issuer: str) -> None:
    """Https and a host; plain http and a port on loopback."""
    assert issuer_problem(issuer) is None


@pytest.mark.parametrize(
    "issuer",
    [
        "",
        "broker.example",
        "ftp://broker.example",
        "http://broker.example",
        "http://10.0.0.1:8640",
        "http://127.0.0.1.evil.example",
        "https://broker.example:8443",
        "https://broker.example/",
        "https://broker.example/x",
        "https://broker.example?x",
        "https://broker.example#x",
        "https://Broker.example",
        "HTTPS://broker.example",
        "https://user@broker.example",
        "https://user:secret@broker.example",
        "https://",
        "https://:8443",
        "https://broker.example:",
        "https://broker.example\n",
        " https://broker.example",
        "https://brok er.example",
        'https://broker.example"',
        "https://br\u00f6ker.example",
        "https://\u0430.example",
        "https://.example",
        "https://[::1",
        "https://[zz]",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:\u0663",
        "http://127.0.0.1:0x50",
    ],
)
def test_bad_issuers(issuer: str) -> None:
    """Anything that could be written in two ways, or that sends credentials in the clear."""
    assert issuer_problem(issuer) is not None


def test_tls_in_front_allows_a_port_and_plain_http() -> None:
    """And nothing else."""
    assert issuer_problem("https://broker.example:8443", tls_ends_in_front=True) is None
    assert issuer_problem("http://broker.example", tls_ends_in_front=True) is None
    assert issuer_problem("https://broker.example/x", tls_ends_in_front=True) is not None


def test_nobody_speaks_for_others_unless_listed(file: Path) -> None:
    """Proxies are trusted one by one; the list is empty unless the operator says more."""
    assert load(file, MINIMAL).listen.trusted_proxies == ()
    networks = ("10.0.0.5", "192.0.2.0/24", "fd00:1::/64", "::1")
    listed = ", ".join(f'"{network}"' for network in networks)
    assert load(file, MINIMAL + f"[listen]\ntrusted_proxies = [{listed}]\n").listen.trusted_proxies == networks


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('"10.0.0.5"', "Expected `array`"),
        ("[10]", "Expected `str`"),
        ('[""]', "must be an IP address or network"),
        ('["proxy.example"]', "must be an IP address or network"),
        ('["10.0.0.5/24"]', "must be an IP address or network"),
        ('["10.0.0.0/33"]', "must be an IP address or network"),
        ('["10.0.0.5", "10.0.0.5:80"]', "must be an IP address or network"),
        ('["0.0.0.0/0"]', "would trust everybody"),
        ('["::/0"]', "would trust everybody"),
        ('["fe80::1%eth0"]', "must not have a zone"),
        ('["::ffff:10.0.0.0/104"]', "write it as an IPv4 network"),
    ],
)
def test_a_network_that_cannot_be_trusted(file: Path, value: str, says: str) -> None:
    """A list that would trust nobody, everybody or not whom it seems to is refused at start, with its key."""
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        load(file, MINIMAL + f"[listen]\ntrusted_proxies = {value}\n")
    assert "listen.trusted_proxies" in str(refused.value)


def test_trusted_proxies_are_not_taken_from_the_environment(file: Path) -> None:
    """A variable that cannot be used is refused, so that nobody believes it is in force."""
    with pytest.raises(ConfigError, match="BROKER_LISTEN_TRUSTED_PROXIES"):
        load(file, MINIMAL, {"BROKER_LISTEN_TRUSTED_PROXIES": "10.0.0.5"})


BACKENDS = """
[backends.vault]
address = "https://vault.internal:8200"
sign_in = {method = "kubernetes", role = "broker", token_file = "run/token"}
ca_file = "ca.pem"
[backends."vault/eu"]
address = "http://127.0.0.1:8200"
sign_in = {method = "approle", mount = "bots", role_id = "r", secret_id_file = "/srv/secret-id"}
concurrency = 2
timeout_seconds = 2.5
[backends.aws-sts]
region = "eu-central-1"
web_identity_role = "arn:aws:iam::123456789012:role/broker"
[backends.local]
"""


def test_backends_are_named_after_their_kind(file: Path) -> None:
    """Each has the settings of its kind, with paths from the folder of the file; several of a kind have a name."""
    backends = load(file, MINIMAL + BACKENDS).backends
    assert list(backends) == ["vault", "vault/eu", "aws-sts", "local"]
    vault, eu, sts, local = backends.values()
    assert isinstance(vault, VaultSettings)
    assert isinstance(eu, VaultSettings)
    assert isinstance(sts, AwsSettings)
    assert (vault.ca_file, vault.sign_in.token_file) == (str(file.parent / "ca.pem"), str(file.parent / "run/token"))
    assert (eu.sign_in.secret_id_file, eu.concurrency, eu.timeout_seconds) == ("/srv/secret-id", 2, 2.5)
    assert (sts.region, sts.endpoint) == ("eu-central-1", None)
    assert local == LocalSettings(path=str(file.parent / "secrets.sealed"))
    assert load(file, MINIMAL).backends == {}


VAULT = '[backends.vault]\naddress = "https://vault.internal"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("backends = 5\n" + MINIMAL, "backends"),
        (MINIMAL + "[backends]\nvault = 5\n", "backends"),
        (MINIMAL + "[backends.consul]\n", "backends.consul: is named after its kind (vault, "),
        (MINIMAL + '[backends."vault/"]\n', "backends.vault/: is named after its kind"),
        (MINIMAL + "[backends.vault]\n", "backends.vault: Object missing required field `address`"),
        (MINIMAL + VAULT, "backends.vault: Object missing required field `sign_in`"),
        (MINIMAL + VAULT + "adress = 1\n", "backends.vault: Object contains unknown field `adress`"),
        (MINIMAL + VAULT + 'sign_in = {method = "userpass"}\n', "backends.vault.sign_in.method"),
        (MINIMAL + VAULT + 'sign_in = {method = "token"}\n', "sign_in.token_file: is needed for the method token"),
        (MINIMAL + VAULT + 'sign_in = {method = "token", token_file = ""}\n', "sign_in.token_file: is needed"),
        (MINIMAL + VAULT + 'sign_in = {method = "approle", role_id = "r"}\n', "sign_in.secret_id_file: is needed"),
        (MINIMAL + VAULT + 'sign_in = {method = "kubernetes", token_file = "t"}\n', "sign_in.role: is needed"),
        (MINIMAL + VAULT + 'sign_in = {method = "jwt", role = "r", token_file = "t"}\n', "token_file: has no meaning"),
        (
            MINIMAL + VAULT + 'sign_in = {method = "token", token_file = "t", mount = "m"}\n',
            "sign_in.mount: has no meaning for the method token",
        ),
        (
            MINIMAL + VAULT.replace("https", "http") + 'sign_in = {method = "jwt", role = "r"}\n',
            "backends.vault.address: must be https://",
        ),
        (
            MINIMAL + VAULT.replace("internal", "internal/v1") + 'sign_in = {method = "jwt", role = "r"}\n',
            "backends.vault.address: must be https://",
        ),
        (MINIMAL + "[backends.aws-sts]\n", "backends.aws-sts: Object missing required field `region`"),
        (MINIMAL + '[backends.aws-sts]\nregion = "x"\nendpoint = "http://moto"\n', "backends.aws-sts.endpoint: must"),
        (MINIMAL + "[backends.local]\nconcurrency = 0\n", "concurrency and timeout_seconds must be above 0"),
        (MINIMAL + "[backends.local]\ntimeout_seconds = nan\n", "concurrency and timeout_seconds must be above 0"),
        (MINIMAL + "[backends.local]\ntimeout_seconds = inf\n", "concurrency and timeout_seconds must be above 0"),
    ],
    ids=range(21),
)
def test_a_backend_that_cannot_be_used(file: Path, text: str, says: str) -> None:
    """The message names the backend and the key, and nothing is guessed."""
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        load(file, text)
    assert str(refused.value).startswith(f"{file}: ")
