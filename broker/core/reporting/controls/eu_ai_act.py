"""Regulation (EU) 2024/1689, articles 12, 19 and 26: records and logs of high-risk AI systems."""

from __future__ import annotations

from typing import Final

from broker.core.reporting.controls.control import Control, Framework

EU_AI_ACT: Final = Framework(
    "EU AI Act, articles 12, 19 and 26",
    "Regulation (EU) 2024/1689. It speaks of high-risk AI systems; whether one is, this report does not know. The"
    " ledger is a log of what agents were allowed, not of what a model was given and answered",
    (
        Control(
            "12(1)",
            "events are recorded automatically over the lifetime",
            "Nothing is issued before its entry is durable; one that is changed or taken out later shows.",
            "The AI system's own events: inputs, outputs, versions of models.",
            ("token.issued", "lease.sealed", "identity_token.issued"),
            ("tests/laws/test_law_01_recorded_before_released.py", "tests/laws/test_law_07_one_door.py"),
        ),
        Control(
            "12(2)(a)",
            "events that help to find situations of risk",
            "Refusals with their codes, break-glass uses, blocks, stuck leases, clock steps, strangers.",
            "Deciding that a situation is a risk in the sense of article 79(1).",
            ("token.refused", "action.refused", "strangers.refused", "lease.missed", "clock.stepped"),
            ("docs/reference/cli.md",),
        ),
        Control(
            "12(2)(b), 12(2)(c)",
            "events for monitoring after placing on the market, and by deployers",
            "Entries can be asked for by agent, task and time, followed, and exported to other systems.",
            "The monitoring itself (articles 72 and 26(5)).",
            ("token.issued", "task.opened", "action.settled"),
            ("docs/reference/cli.md",),
        ),
        Control(
            "12(3)",
            "periods of use, databases and persons, for remote biometric identification",
            "",
            "All of it: the broker does not see what such a system looks at. Approvals name who decided.",
        ),
        Control(
            "19(1)",
            "providers keep the logs for at least six months",
            "By default all entries are kept. Archiving by age refuses less than 183 days unless it is told explicitly;"
            " archives can be verified by themselves and together with what is left.",
            "Keeping archives readable and in a safe place for as long as the law that applies demands.",
            ("ledger.archived",),
            ("docs/decisions/0016-archives-and-retention.md",),
        ),
        Control(
            "26(1), 26(5)",
            "deployers use systems as instructed, monitor them, and suspend them at need",
            "The policy bounds what an agent may get; one call suspends it, and what it hit is recorded.",
            "The instructions for use, and informing provider and authorities.",
            ("policy.loaded", "rule.added", "lease.settled"),
            ("tests/laws/test_law_03_one_rule.py",),
        ),
        Control(
            "26(2)",
            "people with the competence and authority oversee the system",
            "Approvers are named by the policy; a request ends in a decision of theirs or in a refusal.",
            "Competence, training and support of these people.",
            ("approval.voted",),
            ("docs/how-to/approve-requests.md",),
        ),
        Control(
            "26(6)",
            "deployers keep the logs under their control for at least six months",
            "As for 19(1).",
            "As for 19(1).",
            ("ledger.archived",),
            ("docs/decisions/0016-archives-and-retention.md",),
        ),
    ),
)
