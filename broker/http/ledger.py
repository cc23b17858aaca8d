"""``/v1/ledger``: reading the record, and the proofs that it is whole."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from broker.core.errors import BrokerError, Code, Malformed
from broker.core.inquiry import EntryFilter, parse_kinds, parse_moment
from broker.core.personal import personal_beside
from broker.http.answer import NO_STORE, answer
from broker.http.call import Call
from broker.http.paging import cursor_at, cursor_of, limit_of, link_to, only, query_value, whole_number
from broker.ports import Record

_ABOUT: Final = ("agent", "task", "token", "lease", "approval", "incident")
_FILTERS: Final = (*_ABOUT, "kind", "since", "until")


async def entries(call: Call) -> web.Response:
    """``GET /v1/ledger/entries``: entries oldest first, in pages; or with ``ref`` the one that has this reference.

    With filters, a page may be short, and even empty, while there is more to come: ``next`` says so.
    """
    only(call.request, "limit", "cursor", "after", "ref", *_FILTERS)
    ref = query_value(call.request, "ref")
    filtered = any(name in call.request.query for name in _FILTERS)
    if ref is not None and filtered:
        raise Malformed("ref: stands alone, without filters")
    if ref is not None:
        return answer({"entries": [described(_found(await call.services.records.record_of(ref)))], "next": None})
    limit, after = limit_of(call.request), cursor_of(call.request)
    if after is None:
        text = query_value(call.request, "after")
        after = -1 if text is None else whole_number("after", text)
    records: Sequence[Record]
    if filtered:
        page = await call.services.inquiries.find(_filter(call), after=after, limit=limit)
        records, cursor = page.records, None if page.next is None else cursor_at(page.next)
    else:
        records = await call.services.records.records(after=after, limit=limit)
        cursor = cursor_at(records[-1].seq) if len(records) == limit else None
    found = {"entries": [described(record) for record in records], "next": cursor}
    return answer(found, link=link_to(call.request, cursor))


async def entry(call: Call) -> web.Response:
    """``GET /v1/ledger/entries/{seq}``: the entry at a place."""
    seq = whole_number("seq", call.path_value("seq"))
    record = await call.services.records.record(seq)
    if record is None and seq < (await call.services.records.head()).size:
        raise BrokerError(Code.NOT_FOUND, f"entry {seq} was archived and removed; entries of ledger.archived say where")
    return answer(described(_found(record)))


async def trace(call: Call) -> web.Response:
    """``GET /v1/ledger/trace/{ref}``: the story of a token, a lease, a task, an approval or a rule, as a tree."""
    only(call.request)
    story = await call.services.inquiries.story(call.path_value("ref"))
    if story is None:
        raise BrokerError(Code.NOT_FOUND, "the ledger has nothing of this id")
    return answer(story.to_dict())


async def checkpoint(call: Call) -> web.Response:
    """``GET /v1/ledger/checkpoint``: the signed head of the tree (a C2SP note).

    With ``cosigned=true``, the newest one that a witness has cosigned, with its signatures as well.
    """
    only(call.request, "cosigned")
    cosigned = query_value(call.request, "cosigned")
    if cosigned not in {None, "true"}:
        raise Malformed("cosigned: true, or nothing")
    note = await (call.services.cosigned() if cosigned else call.services.records.checkpoint())
    if note is None:
        raise BrokerError(Code.NOT_FOUND, "no witness has cosigned a checkpoint yet")
    headers = {hdrs.CONTENT_TYPE: "text/plain; charset=utf-8", hdrs.CACHE_CONTROL: NO_STORE}
    return web.Response(body=note.encode(), headers=headers)


async def proof(call: Call) -> web.Response:
    """``GET /v1/ledger/proof/{seq}?size=``: that an entry is in the tree of ``size`` entries (default: all of now)."""
    only(call.request, "size")
    seq = whole_number("seq", call.path_value("seq"))
    size = await _size(call, "size")
    if seq >= size:
        raise BrokerError(Code.NOT_FOUND, f"the tree of {size} entries has no entry {seq}")
    hashes = await call.services.records.inclusion(seq, size)
    return answer({"seq": seq, "size": size, "hashes": _encoded(hashes)})


async def consistency(call: Call) -> web.Response:
    """``GET /v1/ledger/consistency?old=&new=``: that the tree of ``new`` entries only appends to that of ``old``."""
    only(call.request, "old", "new")
    old = query_value(call.request, "old")
    if old is None:
        raise Malformed("old: missing")
    new = await _size(call, "new")
    first = whole_number("old", old)
    if not 0 < first <= new:
        raise Malformed("old: must be 1 to new")
    hashes = await call.services.records.consistency(first, new)
    return answer({"old": first, "new": new, "hashes": _encoded(hashes)})


async def _size(call: Call, name: str) -> int:
    """Return the tree size that is asked about. Raises ``Malformed`` for one that the tree does not have yet."""
    head = (await call.services.records.head()).size
    text = query_value(call.request, name)
    size = head if text is None else whole_number(name, text)
    if size > head:
        raise Malformed(f"{name}: the ledger has {head} entries")
    return size


def _filter(call: Call) -> EntryFilter:
    """Return what the query asks about. Raises ``Malformed``."""
    now = call.services.clock.now()
    return EntryFilter(
        **{name: query_value(call.request, name) for name in _ABOUT},
        kinds=parse_kinds(query_value(call.request, "kind")),
        since=parse_moment("since", query_value(call.request, "since"), now),
        until=parse_moment("until", query_value(call.request, "until"), now),
    )


def _found(record: Record | None) -> Record:
    if record is None:
        raise BrokerError(Code.NOT_FOUND, "the ledger has no such entry")
    return record


def described(record: Record) -> dict[str, Any]:
    """Return an entry with its place. Its body stands there byte for byte, so that it can be hashed.

    What is personal stands beside it with its salt: null if it was erased, and not there if there never was anything.
    """
    shown: dict[str, Any] = {"seq": record.seq, "entry": msgspec.Raw(record.body)}
    return shown | personal_beside(record.members, record.personal)


def _encoded(hashes: Iterable[bytes]) -> list[str]:
    return [base64.b64encode(digest).decode() for digest in hashes]
