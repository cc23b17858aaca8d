"""What an identity token says to AWS STS: tags and the source identity of the session, in the characters that it takes.

IAM user guide, "Pass session tags in AWS STS" and "Monitor and control actions taken with assumed roles".
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

AWS_AUDIENCE: Final = "sts.amazonaws.com"
"""The audience of tokens for ``AssumeRoleWithWebIdentity``."""

TAGS_CLAIM: Final = "https://aws.amazon.com/tags"
SOURCE_IDENTITY_CLAIM: Final = "https://aws.amazon.com/source_identity"

_MAX_TAG: Final = 256
_MAX_SOURCE: Final = 64
_MIN_SOURCE: Final = 2
_NOT_IN_TAG: Final = re.compile(r"[^A-Za-z0-9 _.:/=+\-@]")
_NOT_IN_SOURCE: Final = re.compile(r"[^A-Za-z0-9_=+,.@-]")
_DIGEST: Final = 16


def session_claims(*, agent: str, task: str) -> dict[str, Any]:
    """Return the claims that tag a session with the agent that acts and its task, and name the agent as its source.

    Both tags are transitive: who takes up another role from that session keeps them.
    """
    tags = {"agent": _tag(agent), "task": _tag(task)}
    return {
        TAGS_CLAIM: {
            "principal_tags": {name: [value] for name, value in tags.items()},
            "transitive_tag_keys": sorted(tags),
        },
        SOURCE_IDENTITY_CLAIM: source_identity(agent),
    }


def source_identity(agent: str) -> str:
    """Return an agent's id as a source identity: itself if AWS takes it, else a text that stands for it alone."""
    return _fitting(agent, _NOT_IN_SOURCE, _MIN_SOURCE, _MAX_SOURCE)


def _tag(value: str) -> str:
    return _fitting(value, _NOT_IN_TAG, 1, _MAX_TAG)


def _fitting(value: str, unfit: re.Pattern[str], shortest: int, longest: int) -> str:
    """Return the value, or if AWS would not take it, its like with a part of its SHA-256 behind ``=``.

    No agent and no task has ``=`` in its id, so what stands for one can never be that of another.
    """
    if shortest <= len(value) <= longest and unfit.search(value) is None:
        return value
    digest = hashlib.sha256(value.encode()).hexdigest()[:_DIGEST]
    return f"{unfit.sub('-', value)[: longest - _DIGEST - 1]}={digest}"
