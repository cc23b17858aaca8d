"""Following the broker's stream of rules: each statement is verified and goes into the view, and gaps are filled."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, assert_never

from broker.core.errors import Code, Unavailable
from broker.core.feed import Heartbeat, RuleStatement
from broker.core.jwt import InvalidToken
from broker.core.pacing import Timing
from broker.core.snapshot import MAX_SNAPSHOT, Snapshot
from broker.core.statement import StatementError
from broker.verifier.events import Event, EventReader, EventTooLong
from broker.verifier.recording import Recording
from broker.verifier.source import Source, StreamBroke
from broker.verifier.statements import Statement, Statements
from broker.verifier.view import News, Reading, RolledBack, View

GAP_SECONDS: Final = 0.2
"""The least time between two snapshots that gaps cause."""

_MAX_EVENT: Final = MAX_SNAPSHOT + 1024
_log: Final = logging.getLogger("broker.verifier")


class Subscription:
    """One reader of the stream, and what it makes of it."""

    def __init__(  # noqa: PLR0913 - each is a part that it works with, passed by name
        self,
        *,
        source: Source,
        statements: Statements,
        view: View,
        recording: Recording,
        snapshot: Callable[[], Awaitable[None]],
        applied: Callable[[], None],
        silence: float,
        timing: Timing,
    ) -> None:
        """``snapshot`` fetches one and gives it to the view; ``applied`` hears that the view has changed.

        A stream that does not make the view younger for ``silence`` seconds is left.
        """
        self._source = source
        self._statements = statements
        self._view = view
        self._recording = recording
        self._snapshot = snapshot
        self._applied = applied
        self._silence = silence
        self._timing = timing
        self._confirmed_at = -inf
        self._gap_at = -inf
        self._recalling = asyncio.Lock()
        self._recalled = False
        self.refused: Counter[str] = Counter()
        """How many statements were refused, by reason: forged, of others, or not understood."""

    def confirmed_ago(self) -> float:
        """How many seconds ago the stream last made the view younger; infinite before the first time."""
        return self._timing.elapsed() - self._confirmed_at

    async def recall(self) -> None:
        """Take what was kept in a file, once, as old as it is; one that is no good is no worse than none.

        This comes before anything else is taken, so that the epoch it proves bars older statements. Raises
        ``BrokerError`` if there are no keys to verify it with.
        """
        async with self._recalling:
            if self._recalled:
                return
            try:
                for name, token in await self._recording.load():
                    statement = await self._statements.past(name, token)
                    if self._give(statement, self._view.now()) is News.TAKEN:
                        self._recording.note(name, token)
                        self._applied()
            except (InvalidToken, StatementError, RolledBack) as error:
                _log.warning("the view that was kept is not taken: %s", type(error).__name__)
            self._recalled = True

    async def follow(self) -> None:
        """Follow one stream until it ends or breaks, and make up for that by a snapshot.

        A broker ends the stream of whoever a rule kills instead of telling the rule, which may be for everybody. Raises
        ``BrokerError`` if it was no good: it told what is not believed, told no news for too long, or made the view no
        younger at all.
        """
        await self.recall()
        began = self._timing.elapsed()
        try:
            async with asyncio.timeout(self._silence) as bound:
                await self._read(bound)
        except TimeoutError as error:
            raise _unusable("nothing that is news came by the stream of rules in time") from error
        except StreamBroke as error:
            _log.info("the stream of rules broke: %s", error.public)
        if self._confirmed_at < began:
            raise _unusable("the stream of rules ended at once")
        await self._snapshot()

    def refuse(self, why: str, error: Exception) -> Unavailable:
        """Count a statement that is not believed, log it, and return what to raise."""
        self.refused[why] += 1
        _log.warning("a statement of the broker is refused: %s (%d so far)", why, self.refused.total())
        return _unusable(f"a statement of the broker is refused: {error}")

    async def _read(self, bound: asyncio.Timeout) -> None:
        reader = EventReader(_MAX_EVENT)
        async with self._source.stream(self._view.epoch) as chunks:
            async for chunk in chunks:
                heard = self._view.now()
                try:
                    for event in reader.read(chunk):
                        await self._event(event, heard, bound)
                except EventTooLong as error:
                    raise self.refuse("too_long", error) from error

    async def _event(self, event: Event, heard: Reading, bound: asyncio.Timeout) -> None:
        try:
            token = event.data.decode("ascii")
            statement = await self._statements.event(event.name, token)
            news = self._give(statement, heard)
        except InvalidToken as error:
            raise self.refuse(error.why, error) from error
        except (StatementError, UnicodeDecodeError) as error:
            raise self.refuse("unreadable", error) from error
        except RolledBack as error:
            raise self.refuse("rolled_back", error) from error
        if news is News.GAP:
            bound.reschedule(None)  # the request has bounds of its own
            await self._fill()
        elif news is News.TAKEN:
            self._recording.note(event.name, token)
            self._tell(statement)
            if self._recording.is_full():
                await self._fill()
        else:
            return
        bound.reschedule(asyncio.get_running_loop().time() + self._silence)

    def _give(self, statement: Statement, heard: Reading) -> News:
        match statement:
            case Snapshot():
                return self._view.accept(statement, heard)
            case RuleStatement():
                return self._view.take(statement)
            case Heartbeat():
                return self._view.confirm(statement, heard)
            case _:
                assert_never(statement)

    def _tell(self, statement: Statement) -> None:
        if isinstance(statement, RuleStatement):
            self._applied()
            return
        if self._view.is_fresh():
            self._confirmed_at = self._timing.elapsed()
        if isinstance(statement, Snapshot):
            self._applied()

    async def _fill(self) -> None:
        wait = self._gap_at + GAP_SECONDS - self._timing.elapsed()
        if wait > 0:
            await self._timing.sleep(wait)
        self._gap_at = self._timing.elapsed()
        await self._snapshot()


def _unusable(text: str) -> Unavailable:
    return Unavailable(Code.ISSUER_UNAVAILABLE, text)
