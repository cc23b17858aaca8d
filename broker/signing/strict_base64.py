"""Base64 as signed notes and proofs have it: one spelling for the same bytes."""

from __future__ import annotations

import base64


def encode(data: bytes) -> str:
    """Return the base64 (RFC 4648 section 4) of some bytes."""
    return base64.b64encode(data).decode()


def decode(text: str) -> bytes | None:
    """Return what canonical base64 (RFC 4648 section 4) stands for, or None if the text is anything else."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    # The decoder takes any value for the unused last bits, and so several spellings for the same bytes.
    return data if encode(data) == text else None
