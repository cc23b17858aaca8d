"""OWASP Top 10 for Agentic Applications, 2026."""

from __future__ import annotations

from typing import Final

from broker.core.reporting.controls.control import Control, Framework

AGENTIC: Final = Framework(
    "OWASP Top 10 for Agentic Applications (2026)",
    "https://genai.owasp.org/resource/owasp-top-10-for-agentic-applications-for-2026/",
    (
        Control(
            "ASI01",
            "agent goal hijack",
            "Bounds the harm: a hijacked agent still gets only what its role and task allow, and is ended by one call.",
            "Noticing or preventing the hijack.",
            ("token.refused", "rule.added"),
            ("docs/how-to/respond-to-a-hijacked-agent.md",),
        ),
        Control(
            "ASI02",
            "tool misuse and exploitation",
            "Scopes and details narrow what a tool accepts; budgets say how often; people decide on grave requests.",
            "Harm within what was rightly allowed.",
            ("action.reserved", "action.refused", "approval.requested"),
            ("docs/how-to/limit-actions.md",),
        ),
        Control(
            "ASI03",
            "identity and privilege abuse",
            "A delegated token has at most a part of its parent, names the whole chain, and dies with any ancestor.",
            "Platforms that vouch for the wrong workload.",
            ("token.issued", "token.refused"),
            ("tests/laws/test_law_04_children_die_with_parents.py",),
        ),
        Control(
            "ASI04",
            "agentic supply chain vulnerabilities",
            "The broker's own dependencies are locked by digest.",
            "The agents' models, tools, servers and packages.",
            (),
            ("docs/CONTRIBUTING.md",),
        ),
        Control(
            "ASI05",
            "unexpected code execution",
            "Code that an agent runs finds no lasting secret beside it, if secrets are leased for one command only.",
            "Sandboxing the code.",
            ("lease.sealed",),
            ("docs/how-to/lease-secrets.md",),
        ),
        Control(
            "ASI06",
            "memory and context poisoning",
            "",
            "All of it: the broker sees neither memory nor context. What it grants does not depend on them.",
        ),
        Control(
            "ASI07",
            "insecure inter-agent communication",
            "Agents prove to each other who they are by tokens for one audience, bound to a key where a tier says so.",
            "What agents say to each other.",
            ("token.issued",),
            ("docs/how-to/delegate-to-a-sub-agent.md",),
        ),
        Control(
            "ASI08",
            "cascading failures",
            "Budgets of a task bound all below it; ending a task ends its whole subtree; rates are exact.",
            "Failures that spread by other ways than credentials.",
            ("task.closed", "action.refused"),
            ("docs/decisions/0007-tasks-reserve-from-their-parents.md",),
        ),
        Control(
            "ASI09",
            "human-agent trust exploitation",
            "Approvers see exactly what is granted; text from agents is shown as data, and marked at need.",
            "People who agree without looking.",
            ("approval.requested", "approval.voted"),
            ("docs/decisions/0009-approvals-are-bound-to-a-digest.md",),
        ),
        Control(
            "ASI10",
            "rogue agents",
            "A rule with a block ends what an agent has and refuses what it asks for, at every service that looks.",
            "Services that do not check tokens or rules, and noticing the agent.",
            ("rule.added", "block.lifted"),
            ("tests/laws/test_law_02_no_stale_rules.py", "docs/how-to/guard-a-service.md"),
        ),
    ),
)
