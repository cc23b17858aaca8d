"""Editing a policy file: each proposal becomes the smallest change of its text; comments and layout stay as they are.

What comes out is read again and compared with what the edits mean for the document, so that it is that or nothing.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import yaml

from broker.core.advice import Edit, Proposal
from broker.core.lifetime import format_duration
from broker.strict_yaml import parse_document
from broker.yaml_layout import LayoutEditor, NotEditable, value_of

_DURATIONS: Final = frozenset({"task_ttl", "idle_timeout"})
_LINES: Final = re.compile(r"[^\n]*\n|[^\n]+")


def edited(path: Path, text: str, proposals: Iterable[Proposal]) -> str:
    """Return the text of a policy file with the proposals carried out.

    ``text`` was read and compiled before. Raises :class:`NotEditable`.
    """
    plan = _Plan.of(proposals)
    editor = LayoutEditor(path, text)
    _carry_out(editor, plan)
    result = editor.result()
    document = copy.deepcopy(parse_document(path, text).value)
    _apply(cast("dict[str, Any]", document), plan)
    if parse_document(path, result).value != document:
        raise NotEditable(path, 1)
    return result


def unified_diff(name: str, before: str, after: str) -> str:
    """Return a unified diff that ``patch`` applies; nothing if there is no difference."""
    old, new = _LINES.findall(before), _LINES.findall(after)
    lines = difflib.unified_diff(old, new, fromfile=name, tofile=name)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


@dataclass(slots=True)
class _RolePlan:
    """What is to be changed of one role. Scopes, secrets and lifetimes are by the place of their line in ``allow``."""

    scopes: dict[int, set[str]] = field(default_factory=dict)
    secrets: set[int] = field(default_factory=set)
    ttls: dict[int, str] = field(default_factory=dict)
    members: set[int] = field(default_factory=set)
    delegates: set[str] = field(default_factory=set)
    limits: dict[str, int | str] = field(default_factory=dict)
    actions: dict[str, int] = field(default_factory=dict)
    no_actions: set[str] = field(default_factory=set)

    def take(self, proposal: Proposal) -> None:
        """Add a proposal, which is about this role."""
        line, name, value = proposal.line or 0, proposal.name or "", proposal.value or 1
        match proposal.edit:
            case Edit.REMOVE_SCOPE:
                self.scopes.setdefault(line, set()).add(name)
            case Edit.REMOVE_SECRET:
                self.secrets.add(line)
            case Edit.SET_TTL:
                self.ttls[line] = format_duration(value)
            case Edit.REMOVE_MEMBER:
                self.members.add(line)
            case Edit.REMOVE_DELEGATE:
                self.delegates.add(name)
            case Edit.SET_LIMIT:
                self.limits[name] = format_duration(value) if name in _DURATIONS else value
            case Edit.SET_ACTION:
                self.actions[name] = value
            case Edit.REMOVE_ACTION:
                self.no_actions.add(name)
            case Edit.REMOVE_ROLE:
                pass


@dataclass(slots=True)
class _Plan:
    """What is to be changed: roles that go, and changes of others."""

    gone: set[str] = field(default_factory=set)
    roles: dict[str, _RolePlan] = field(default_factory=dict)

    @classmethod
    def of(cls, proposals: Iterable[Proposal]) -> _Plan:
        plan = cls()
        for proposal in proposals:
            if proposal.edit is Edit.REMOVE_ROLE:
                plan.gone.add(proposal.role)
            else:
                plan.roles.setdefault(proposal.role, _RolePlan()).take(proposal)
        plan.roles = {name: changes for name, changes in plan.roles.items() if name not in plan.gone}
        return plan


# --- what the edits mean for the document -----------------------------------------------------------------------------


def _apply(document: dict[str, Any], plan: _Plan) -> None:
    for name in plan.gone:
        del document["roles"][name]
    for name, changes in plan.roles.items():
        _apply_role(document["roles"][name], changes)


def _apply_role(role: dict[str, Any], plan: _RolePlan) -> None:
    role["members"] = [line for place, line in enumerate(role["members"]) if place not in plan.members]
    for place, scopes in plan.scopes.items():
        line = role["allow"][place]
        for key in ("scopes", "default_scopes"):
            if key in line:
                line[key] = [scope for scope in line[key] if scope not in scopes]
                if not line[key] and key == "default_scopes":
                    del line[key]
    for place, ttl in plan.ttls.items():
        role["allow"][place]["max_ttl"] = ttl
    lines = enumerate(role["allow"])
    role["allow"] = [line for place, line in lines if place not in plan.secrets and line.get("scopes") != []]
    if plan.delegates:
        left = [item for item in role["may_delegate_to"] if _delegate(item) not in plan.delegates]
        role["may_delegate_to"] = left
        if not left:
            del role["may_delegate_to"]
    if plan.limits:
        role.setdefault("limits", {}).update(plan.limits)
    if plan.actions or plan.no_actions:
        actions = role["limits"]["actions"]
        role["limits"]["actions"] = {
            name: plan.actions.get(name, most) for name, most in actions.items() if name not in plan.no_actions
        }


def _delegate(item: object) -> object:
    return item["role"] if isinstance(item, Mapping) else item


# --- and for its text -------------------------------------------------------------------------------------------------


def _carry_out(editor: LayoutEditor, plan: _Plan) -> None:
    """Collect the replacements that a plan comes to."""
    roles = cast("yaml.MappingNode", value_of(editor.root, "roles"))
    editor.drop_keys(roles, plan.gone)
    for name, changes in plan.roles.items():
        _edit_role(editor, cast("yaml.MappingNode", value_of(roles, name)), changes)


def _edit_role(editor: LayoutEditor, role: yaml.MappingNode, plan: _RolePlan) -> None:
    editor.drop_items(value_of(role, "members"), plan.members)
    _edit_lines(editor, cast("yaml.SequenceNode", value_of(role, "allow")), plan)
    if plan.delegates:
        delegates = cast("yaml.SequenceNode", value_of(role, "may_delegate_to"))
        gone = {place for place, item in enumerate(delegates.value) if _named(item) in plan.delegates}
        if len(gone) == len(delegates.value):
            editor.drop_keys(role, {"may_delegate_to"})
        else:
            editor.drop_items(delegates, gone)
    limits = value_of(role, "limits")
    if isinstance(limits, yaml.MappingNode):
        editor.set_keys(limits, plan.limits)
        actions = value_of(limits, "actions")
        if isinstance(actions, yaml.MappingNode):
            editor.set_keys(actions, plan.actions)
            editor.drop_keys(actions, plan.no_actions)
    elif plan.limits:
        inner = ", ".join(f"{editor.word(name)}: {editor.word(value)}" for name, value in plan.limits.items())
        editor.insert(role, [f"{editor.word('limits')}: {{{inner}}}"])


def _edit_lines(editor: LayoutEditor, allow: yaml.SequenceNode, plan: _RolePlan) -> None:
    gone: set[int] = set(plan.secrets)
    for place, line in enumerate(cast("list[yaml.MappingNode]", allow.value)):
        unused = plan.scopes.get(place, set())
        scopes, defaults = value_of(line, "scopes"), value_of(line, "default_scopes")
        if unused and isinstance(scopes, yaml.SequenceNode):
            if all(item.value in unused for item in scopes.value):
                gone.add(place)
                continue
            editor.drop_items(scopes, _places(scopes, unused))
        if unused and isinstance(defaults, yaml.SequenceNode):
            if all(item.value in unused for item in defaults.value):
                editor.drop_keys(line, {"default_scopes"})
            else:
                editor.drop_items(defaults, _places(defaults, unused))
        if place in plan.ttls:
            editor.set_keys(line, {"max_ttl": plan.ttls[place]})
    editor.drop_items(allow, gone)


def _named(item: yaml.Node) -> object:
    """Return the role that an item of ``may_delegate_to`` names."""
    node = value_of(item, "role") if isinstance(item, yaml.MappingNode) else item
    return None if node is None else node.value


def _places(node: yaml.SequenceNode, texts: Collection[str]) -> set[int]:
    return {place for place, item in enumerate(node.value) if item.value in texts}
