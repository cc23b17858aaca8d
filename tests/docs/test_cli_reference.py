"""The references of the command line and of the settings say what the code does, and leave nothing out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import typer.main

from broker.cli.app import app
from broker.cli.outcome import ExitCode
from broker.config import (
    ANCHOR_KINDS,
    BACKEND_KINDS,
    FeedSettings,
    LeaseSettings,
    LedgerSettings,
    Limits,
    Listen,
    Log,
    MasterKey,
    OperatorSettings,
    VaultSignIn,
    WorkerSettings,
    load_config,
)

DOCS = Path(__file__).parents[2] / "docs"
CLI = (DOCS / "reference" / "cli.md").read_text()
SETTINGS = (DOCS / "reference" / "configuration.md").read_text()
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "listen": Listen,
    "workers": WorkerSettings,
    "ledger": LedgerSettings,
    "master_key": MasterKey,
    "limits": Limits,
    "log": Log,
    "operator": OperatorSettings,
    "leases": LeaseSettings,
    "feed": FeedSettings,
}


def _commands(command: object, name: str) -> Iterator[tuple[str, set[str]]]:
    children = getattr(command, "commands", None)
    if children is None:
        parameters = command.params  # type: ignore[attr-defined]
        yield name, {option for parameter in parameters for option in parameter.opts if option.startswith("-")}
        return
    for child, inner in children.items():
        yield from _commands(inner, f"{name} {child}")


COMMANDS = dict(_commands(typer.main.get_command(app), "broker"))


def _part(text: str, heading: str) -> str:
    """Return what stands under a heading."""
    found = re.search(rf"^#+ `?{re.escape(heading)}.*?$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_described(command: str) -> None:
    """Each command has a part of its own, which names each of its options; the shared ones have one table."""
    shared = _part(CLI, "Options of many commands")
    described = _part(CLI, command) + shared
    assert [option for option in COMMANDS[command] if f"{option}" not in described] == []


def _told_to_run() -> Iterator[tuple[str, str]]:
    """Yield every command line that a page or the policy template shows, with the name of the page."""
    for page in (*DOCS.rglob("*.md"), DOCS.parent / "README.md"):
        text = page.read_text()
        fenced = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
        lines = [
            line for block in fenced for line in re.findall(r"(?:^\s*|\$ |\$\()(broker [a-z].*)", block, re.MULTILINE)
        ]
        inline = re.findall(r"`(broker [a-z][^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for line in (*lines, *inline):
            yield page.name, line


def test_no_command_is_made_up() -> None:
    """Every command line that a page shows is of a command that exists, with options that it has."""
    seen = 0
    for page, line in _told_to_run():
        words = re.split(r"#| && | \| |\s{3,}", line)[0].split()
        name = next((name for end in (3, 2) if (name := " ".join(words[:end])) in COMMANDS), None)
        if name is None:
            groups = {command.rpartition(" ")[0] for command in COMMANDS}
            assert " ".join(words[:2]) in groups, f"{page}: {line}"
            continue
        options = {word.strip("[]()|").partition("=")[0] for word in words if re.match(r"[\[(|]*--?[a-z]", word)}
        assert options <= COMMANDS[name] | {"--help"}, f"{page}: {line}"
        seen += 1
    assert seen > len(COMMANDS)


def test_exit_codes() -> None:
    """The table of exit codes is the enumeration."""
    told = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", _part(CLI, "Exit codes"), re.MULTILINE)
    assert {(int(number), name) for number, name in told} == {(code.value, code.name) for code in ExitCode}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_described(section: str) -> None:
    """Each key of a section is in its table with its default, and no other key is."""
    told = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", _part(SETTINGS, f"[{section}]"), re.MULTILINE))
    fields = {field.name: field.default for field in msgspec.structs.fields(SECTIONS[section])}
    assert told.keys() == fields.keys()
    for name, default in fields.items():
        value = str(default).lower() if isinstance(default, bool) else default
        shown = "none" if default in (None, ()) else f"`{value}`"
        if (section, name) != ("master_key", "file"):
            assert told[name] == shown, name


@pytest.mark.parametrize("kind", BACKEND_KINDS)
def test_every_setting_of_a_backend_is_described(kind: str) -> None:
    """Each key is in the table of its kind or in that of all kinds, and no other key is."""
    heading = next(line for line in SETTINGS.splitlines() if line.startswith("### ") and f"`{kind}`" in line)
    parts = _part(SETTINGS, "[backends.NAME]"), _part(SETTINGS, heading.removeprefix("### `"))
    told = set(re.findall(r"^\| `([a-z_]+)` \|", "".join(parts), re.MULTILINE))
    of_signing_in = {field.name for field in msgspec.structs.fields(VaultSignIn)}
    keys = {field.name for field in msgspec.structs.fields(BACKEND_KINDS[kind])}
    assert told == (keys | of_signing_in if "sign_in" in keys else keys)


@pytest.mark.parametrize("kind", ANCHOR_KINDS)
def test_every_setting_of_an_anchor_is_described(kind: str) -> None:
    """Each key is in the table of its kind or in that of all kinds, with its default, and no other key is."""
    parts = _part(SETTINGS, "[anchors.NAME]"), _part(SETTINGS, f"Anchor: `{kind}`")
    told = dict(re.findall(r"^\| `([a-z_0-9]+)` \| (.*?) \|", "".join(parts), re.MULTILINE))
    fields = {field.name: field for field in msgspec.structs.fields(ANCHOR_KINDS[kind])}
    assert told.keys() == {"kind", *fields}
    for name, field in fields.items():
        if field.required:
            assert told[name] == "required", name
        elif field.default not in (None, ""):
            assert told[name] == f"`{str(field.default).lower()}`", name


def test_an_operators_own_file(tmp_path: Path) -> None:
    """Issuer and operator are enough for whoever only runs commands, as the page says."""
    path = tmp_path / "broker.toml"
    path.write_text('issuer = "https://broker.example"\n[operator]\nagent = "alice"\nkey = "alice.pem"\n')
    assert load_config(path, {}).operator.agent == "alice"


def test_the_template_is_described() -> None:
    """Every key that ``broker init`` writes, or shows as an example, is in the reference."""
    template = (DOCS.parent / "broker" / "templates" / "broker.toml").read_text()
    keys = re.findall(r"^(?:# )?([a-z_]+) = ", template, re.MULTILINE)
    assert len(keys) > 10
    assert [key for key in keys if f"| `{key}` |" not in SETTINGS] == []
