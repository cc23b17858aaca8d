"""Changing a YAML text part by part: whatever its layout, what comes out is what was meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.yaml_layout import LayoutEditor, value_of

DOCUMENT: dict[str, Any] = {"roles": {"a": {"members": [1], "allow": [{"x": 1, "scopes": ["s", "t"]}]}, "b": {"n": 2}}}
"""The last line of ``a`` is the last one of its list of lines, of a line, and of a list in that."""


class _Indented(yaml.SafeDumper):
    """Indents the items of a list, where others leave their dashes below the key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Never without an indent."""
        super().increase_indent(flow, indentless=False)


def layouts() -> Iterator[Any]:
    """Return the document as several people would write it."""
    written = {
        "dashes below the key": yaml.safe_dump(DOCUMENT, sort_keys=False),
        "dashes indented": yaml.dump(DOCUMENT, Dumper=_Indented, sort_keys=False),
        "four spaces": yaml.safe_dump(DOCUMENT, sort_keys=False, indent=4),
        "lists in brackets": yaml.safe_dump(DOCUMENT, sort_keys=False, default_flow_style=None),
        "all in brackets": yaml.safe_dump(DOCUMENT, sort_keys=False, default_flow_style=True),
    }
    for name, text in written.items():
        yield pytest.param(text, id=name)
        yield pytest.param(text.rstrip("\n"), id=f"{name}, no line feed at the end")
        yield pytest.param(text.replace("\n", "\r\n"), id=f"{name}, from Windows")


@pytest.mark.parametrize("order", [("line", "role"), ("role", "line")])
@pytest.mark.parametrize("text", list(layouts()))
def test_blocks_that_end_together(text: str, order: tuple[str, str]) -> None:
    """A member is added to a line, and one to the role that ends with that line, in any order."""
    editor = LayoutEditor(Path("policy.yaml"), text)
    roles = value_of(editor.root, "roles")
    assert isinstance(roles, yaml.MappingNode)
    role = value_of(roles, "a")
    assert isinstance(role, yaml.MappingNode)
    allow = value_of(role, "allow")
    assert isinstance(allow, yaml.SequenceNode)
    for place in order:
        if place == "line":
            editor.set_keys(allow.value[0], {"max_ttl": "5m"})
        else:
            editor.insert(role, ["limits: {n: 4}"])
    changed = yaml.safe_load(editor.result())
    expected = yaml.safe_load(text)
    expected["roles"]["a"]["allow"][0]["max_ttl"] = "5m"
    expected["roles"]["a"]["limits"] = {"n": 4}
    assert changed == expected
    assert list(changed["roles"]["a"]) == ["members", "allow", "limits"]
