"""Which requirements of others the broker's controls bear on, how far, and what shows it.

A mapping is a claim. So each says what the broker does, what it leaves to others, and points to entries of the ledger
(by their kinds) and to the test or page that holds the broker to it. None says that a requirement is met: most ask for
more than a broker of credentials can do.
"""

from __future__ import annotations

from typing import Final

from broker.core.reporting.controls.agentic import AGENTIC
from broker.core.reporting.controls.control import Control, Framework
from broker.core.reporting.controls.eu_ai_act import EU_AI_ACT
from broker.core.reporting.controls.nist import NIST
from broker.core.reporting.controls.non_human import NON_HUMAN

__all__ = ["FRAMEWORKS", "Control", "Framework"]

FRAMEWORKS: Final = (NIST, EU_AI_ACT, NON_HUMAN, AGENTIC)
