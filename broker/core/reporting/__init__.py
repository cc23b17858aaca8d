"""A report for auditors: what the ledger proves of a time, in Markdown, and which requirements that bears on."""

from __future__ import annotations

from broker.core.reporting.document import Integrity, report
from broker.core.reporting.evidence import Evidence

__all__ = ["Evidence", "Integrity", "report"]
