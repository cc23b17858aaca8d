"""YAML is read as plain data without its surprises, and every part knows its line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.policy import PolicyError
from broker.strict_yaml import MAX_BYTES, Plain, read_document


def read(tmp_path: Path, text: str | bytes, name: str = "file.yaml") -> Plain:
    """Write a file and read it as a document."""
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_document(path).value


def refusal(tmp_path: Path, text: str | bytes, name: str = "file.yaml") -> str:
    """Return the text of the refusal of a document, without the folder of the file."""
    with pytest.raises(PolicyError) as caught:
        read(tmp_path, text, name)
    return str(caught.value).replace(str(tmp_path) + "/", "")


def test_plain_data_and_lines(tmp_path: Path) -> None:
    """Texts, whole numbers, true, false, lists and mappings come out as they are written."""
    path = tmp_path / "file.yaml"
    path.write_text('a: 1\nb:\n  - x y\n  - {"c:d": "2", e: true}\n  - |\n    long\n    text\nf: -0\ng: "no"\n')
    parsed = read_document(path)
    assert parsed.value == {"a": 1, "b": ["x y", {"c:d": "2", "e": True}, "long\ntext\n"], "f": 0, "g": "no"}
    assert parsed.lines[("a",)] == 1
    assert parsed.lines[("b", 1, "e")] == 4
    assert parsed.lines[("b", 2)] == 5
    assert parsed.lines[("g",)] == 9


def test_json(tmp_path: Path) -> None:
    """A file named .json is read as JSON, tabs and all."""
    assert read(tmp_path, '{\n\t"a": [1, true, "x"]}', "file.json") == {"a": [1, True, "x"]}


@pytest.mark.parametrize("text", ["", "\n", "# only a remark\n", "---\n", "~\n"])
def test_nothing_is_none(tmp_path: Path, text: str) -> None:
    """An empty document has no value; what it should have had is for its own rules to say."""
    assert read(tmp_path, text) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "file.yaml:3: a: is there twice, first in line 1"),
        ("x:\n  - {k: 1, 'k': 2}\n", "file.yaml:2: x[0].k: is there twice, first in line 2"),
        ("a: &x 1\nb: *x\n", "file.yaml:1: a: anchors and aliases"),
        ("a: *x\n", "file.yaml:1: a: anchors and aliases"),
        ("a: !!python/object:os.system x\n", "file.yaml:1: a: tags are not offered"),
        ("a: !!str 1\n", "file.yaml:1: a: tags are not offered"),
        ("a: !x {b: 1}\n", "file.yaml:1: a: tags are not offered"),
        ("a:\n  <<: {b: 1}\n", "file.yaml:2: a['<<']: YAML reads '<<' as a merge"),
        ("a: 1\n---\nb: 2\n", "file.yaml:2: (the whole document): there must be one document only"),
        ("a: 2026-11-22\n", "file.yaml:1: a: YAML reads '2026-11-22' as a date"),
        ("a: 1.5\n", "file.yaml:1: a: YAML reads '1.5' as a number with a fraction"),
        ("a: .inf\n", "file.yaml:1: a: YAML reads '.inf' as a number with a fraction"),
        ("a: 1_000\n", "file.yaml:1: a: YAML reads '1_000' as a number that is not written in plain decimal"),
        ("a: 0123\n", "file.yaml:1: a: YAML reads '0123' as a number"),
        ("a: 0x1F\n", "file.yaml:1: a: YAML reads '0x1F' as a number"),
        ("a: 1:30\n", "file.yaml:1: a: YAML reads '1:30' as a number"),
        ("a: " + "9" * 5000 + "\n", "as a number that is not written in plain decimal"),
        ("a: yes\n", "file.yaml:1: a: YAML reads 'yes' as true or false"),
        ("a: True\n", "file.yaml:1: a: YAML reads 'True' as true or false"),
        ("on: 1\n", "file.yaml:1: on: YAML reads 'on' as true or false"),
        ("1: x\n", "a key must be text: put it in quotes"),
        ("true: x\n", "a key must be text: put it in quotes"),
        ("~: x\n", "a key must be text: put it in quotes"),
        ("[a]: x\n", "file.yaml:1: (the whole document): a key must be text"),
        ("a: [1\n", "file.yaml:2: (the whole document): not YAML"),
        ("a:\n\t- 1\n", "file.yaml:2: (the whole document): not YAML"),
        ("a: b: c\n", "file.yaml:1: (the whole document): not YAML"),
        ("a: \x07\n", "(the whole document): not YAML: a character"),
        (b"a: \xff\n", "file.yaml:1: (the whole document): is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "is not UTF-8"),
        ("[" * 40 + "]" * 40, "is nested deeper than 16 levels"),
        ("a: " + "[" * 5000, "is nested deeper than 16 levels"),
        ("# " + "x" * MAX_BYTES, "is larger than 1048576 bytes"),
    ],
)
def test_refused_yaml(tmp_path: Path, text: str | bytes, told: str) -> None:
    """What is ambiguous, explosive or surprising is refused, with its line and reason."""
    assert told in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('{"x": {"\\u0061": 1, "a": 2}}', "the key 'a' is there twice"),
        ('{\n"a": 1,}', "file.json:2: (the whole document): not JSON"),
        ("[" * 100_000, "file.json: (the whole document): is nested deeper"),
        ('{"a": ' + "9" * 5000 + "}", "file.json: (the whole document): "),
        (b'{"a": "\xff"}', "file.json:1: (the whole document): is not UTF-8"),
    ],
)
def test_refused_json(tmp_path: Path, text: str | bytes, told: str) -> None:
    """The same holds for JSON."""
    assert told in refusal(tmp_path, text, "file.json")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file or a folder is a problem like any other."""
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(PolicyError, match="cannot be read: "):
            read_document(path)


def test_a_large_document_is_read_or_refused_soon(tmp_path: Path) -> None:
    """The largest document that is read does not hold up the process for long."""
    start = time.process_time()
    read(tmp_path, "a:\n" + "  - x\n" * ((MAX_BYTES - 10) // 6))
    assert time.process_time() - start < 10


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_file_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever the bytes are, the answer is plain data or a PolicyError."""
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    try:
        read_document(path)
    except PolicyError as error:
        assert error.problems  # noqa: PT017 - either outcome is right
