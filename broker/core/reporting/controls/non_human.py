"""OWASP Non-Human Identities Top 10, 2025."""

from __future__ import annotations

from typing import Final

from broker.core.reporting.controls.control import Control, Framework

NON_HUMAN: Final = Framework(
    "OWASP Non-Human Identities Top 10 (2025)",
    "https://owasp.org/www-project-non-human-identities-top-10/2025/",
    (
        Control(
            "NHI1:2025",
            "improper offboarding",
            "Credentials end by themselves in minutes, with their task, or by one rule; nothing has to be hunted down.",
            "Identities and secrets that are not got through the broker.",
            ("rule.added", "agent.removed", "lease.settled"),
            ("tests/laws/test_law_03_one_rule.py",),
        ),
        Control(
            "NHI2:2025",
            "secret leakage",
            "Agents are given no secret to keep; no secret is in an entry, log, metric or error; leases are short.",
            "What an agent does with a secret while it has it.",
            ("lease.sealed",),
            ("tests/laws/test_law_08_no_secret_is_written.py", "tests/e2e/test_canary.py"),
        ),
        Control(
            "NHI3:2025",
            "vulnerable third-party identities",
            "A third party's agent gets no more than its role allows, and all that came of it can be ended at once.",
            "Choosing and watching third parties.",
            ("token.issued", "rule.added"),
            ("docs/reference/policy.md",),
        ),
        Control(
            "NHI4:2025",
            "insecure authentication",
            "Exact issuer, audience, type and algorithm; each assertion counts once; tiers can demand bound keys.",
            "How platforms vouch for workloads.",
            ("assertion.used", "strangers.refused"),
            ("docs/explanation/threat-model.md",),
        ),
        Control(
            "NHI5:2025",
            "overprivileged identities",
            "Default deny; one role must cover a whole request; a child never has more than its parent. Advice says"
            " what was allowed and never asked for.",
            "A policy that allows too much.",
            ("token.issued", "token.refused"),
            ("tests/laws/test_law_04_children_die_with_parents.py", "tests/laws/test_law_09_empty_means_no.py"),
        ),
        Control(
            "NHI6:2025",
            "insecure cloud deployment configurations",
            "CI jobs and workloads sign in by their platform's own tokens, so that no static key is in a pipeline.",
            "The configuration of clouds and pipelines, and of whom they trust.",
            ("identity_token.issued",),
            ("docs/how-to/sign-in-to-vault-and-clouds.md",),
        ),
        Control(
            "NHI7:2025",
            "long-lived secrets",
            "Tokens live for minutes, leases as long as their task at most; the longest life is set per tier.",
            "Static secrets that a backend cannot change: a lease says so when it is handed out.",
            ("token.issued", "lease.sealed"),
            ("tests/laws/test_law_06_honest_outcomes.py",),
        ),
        Control(
            "NHI8:2025",
            "environment isolation",
            "A token is for one audience; issuers are kept apart, and no key of one verifies a token of another.",
            "One broker and one policy for test and production would mix them.",
            ("token.issued",),
            ("docs/explanation/threat-model.md",),
        ),
        Control(
            "NHI9:2025",
            "reuse of identities",
            "Each agent has an identity of its own, each piece of work a task, each credential an entry.",
            "Several programs behind one platform identity look like one agent.",
            ("task.opened", "token.issued"),
            ("docs/how-to/work-in-tasks.md",),
        ),
        Control(
            "NHI10:2025",
            "human use of non-human identities",
            "Operators have identities of their own, and decisions carry who made them and from where.",
            "A person with an agent's platform identity or key cannot be told from the agent.",
            ("approval.voted", "rule.added"),
            ("docs/decisions/0003-operators-are-agents.md",),
        ),
    ),
)
