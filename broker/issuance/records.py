"""What the ledger says of a token that was issued or refused: who, what, why, how, from where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.core.claims import AccessClaims
from broker.core.entry import MAX_INT, Entry, Kind, entry
from broker.core.errors import Code
from broker.core.grant import Ask, Granted
from broker.core.identity import Attribute
from broker.core.identity_decision import IdentityGranted, IdentityGround
from broker.core.identity_token import IdentityClaims
from broker.core.selector import facts_text
from broker.issuance.applicants import Applicant


def issued_entry(
    applicant: Applicant, granted: Granted, claims: AccessClaims, kid: str, policy_digest: str, **why: str | None
) -> Entry:
    """Return the entry of a token.

    ``why`` is what else allowed it: an ``approval``, or ``break_glass`` and its reason.
    """
    agent = applicant.agent
    return entry(
        Kind.TOKEN_ISSUED,
        applicant.now,
        ref=claims.jti,
        agent=agent.id,
        issuer=agent.issuer,
        subject=agent.subject,
        attributes_digest=agent.attributes_digest(),
        role=claims.role,
        tier=claims.tier,
        task=claims.task,
        audience=claims.aud,
        scope=" ".join(claims.scopes),
        epoch=claims.epoch,
        expires_at=claims.exp,
        key=kid,
        bound_key=claims.jkt,
        allowed_by=granted.allowed_by,
        policy=policy_digest,
        details=[dict(element) for element in claims.details],
        may_act=claims.may_act,
        **_descent(claims, kid),
        **_subject(applicant),
        **why,
        **applicant.provenance(),
    )


def identity_entry(
    applicant: Applicant,
    ground: IdentityGround,
    granted: IdentityGranted,
    claims: IdentityClaims,
    kid: str,
    **why: str,
) -> Entry:
    """Return the entry of an identity token: everything that it says, what it came of, and ``why`` it could be had."""
    agent, lineage = applicant.agent, granted.lineage
    return entry(
        Kind.IDENTITY_TOKEN_ISSUED,
        applicant.now,
        ref=claims.jti,
        agent=agent.id,
        issuer=agent.issuer,
        subject=agent.subject,
        attributes_digest=agent.attributes_digest(),
        role=claims.role,
        task=claims.task,
        path=list(ground.task.path),
        audience=claims.aud,
        epoch=ground.rules.epoch,
        expires_at=claims.exp,
        key=kid,
        bound_key=applicant.ask.jkt,
        allowed_by=granted.allow.path,
        policy=ground.policy.digest,
        claims=dict(claims.more),
        groups=list(claims.groups),
        parents=list(lineage.parents),
        actors=list(lineage.agents),
        on_behalf_of=claims.sub,
        impersonates=True if lineage.impersonates else None,
        lineage=facts_text(granted.facts),
        **why,
        **applicant.provenance(),
    )


def refused_entry(
    applicant: Applicant,
    parent: AccessClaims | None,
    refusal: str,
    why: tuple[Code, str],
    policy_digest: str,
    kind: Kind = Kind.TOKEN_REFUSED,
) -> Entry:
    """Return the entry of a refusal; ``refusal`` is the reference that the agent is told.

    ``parent`` is the token of ours that was to be exchanged, ``why`` the code and the reason.
    """
    agent, ask = applicant.agent, applicant.ask
    code, reason = why
    return entry(
        kind,
        applicant.now,
        ref=refusal,
        agent=agent.id,
        issuer=agent.issuer,
        subject=agent.subject,
        attributes={name: _recordable(value) for name, value in agent.attributes.items() if value not in ((), "")},
        code=code.value,
        reason=reason,
        audience=ask.audience,
        scope=None if ask.scopes is None else " ".join(ask.scopes),
        task=ask.task,
        bound_key=ask.jkt,
        details=[dict(element) for element in ask.details or ()],
        exchange=True if applicant.request.exchange is not None else None,
        on_behalf_of=_on_behalf_of(applicant, parent),
        parents=None if parent is None else [*parent.parents, parent.jti],
        actors=None if parent is None else list(parent.agents),
        approval=applicant.request.auth_req_id,
        policy=policy_digest,
        **_subject(applicant),
        **applicant.provenance(),
    )


def asked(agent: str, ask: Ask, granted: Granted, parent: AccessClaims | None) -> dict[str, Any]:
    """Return what an approval of this request is bound to, in JSON values: everything that the token would say."""
    members: dict[str, Any] = {
        "kind": "token",
        "agent": agent,
        "role": granted.role,
        "audience": granted.audience,
        "scopes": list(granted.scopes),
        "tier": granted.tier,
        "task": ask.task if parent is None else ask.task or parent.task,
        "details": [dict(element) for element in granted.details],
        "may_act": ask.may_act,
        "key": ask.jkt,
        "subject_token": None if parent is None else parent.jti,
    }
    return {name: value for name, value in members.items() if value not in (None, [])}


def _descent(claims: AccessClaims, kid: str) -> Mapping[str, Any]:
    """Return what is recorded of a token's task tree and ancestors; most tokens have none."""
    if not (claims.path or claims.parents):
        return {}
    own = {
        ("token", claims.jti),
        ("task", claims.task),
        ("agent", claims.client_id),
        ("role", claims.role),
        ("audience", claims.aud),
        ("tier", claims.tier),
        ("issuer", claims.issuer),
        ("key", kid),
        ("key", claims.jkt),
        *(("scope", scope) for scope in claims.scopes),
    }
    return {
        "path": list(claims.path),
        "parents": list(claims.parents),
        "actors": list(claims.agents),
        "on_behalf_of": claims.sub,
        "impersonates": True if claims.impersonates else None,
        "lineage": facts_text(claims.facts(kid) - own),
    }


def _on_behalf_of(applicant: Applicant, parent: AccessClaims | None) -> str | None:
    if parent is not None:
        return parent.sub
    return None if applicant.subject is None else applicant.subject.agent.id


def _subject(applicant: Applicant) -> dict[str, str | None]:
    """Return by which token a trusted issuer vouched for the agent on whose behalf this is."""
    subject = applicant.subject
    if subject is None:
        return {}
    return {"subject_token": subject.digest, "subject_token_id": subject.token_id, "subject_token_key": subject.key}


def _recordable(value: Attribute) -> Attribute:
    """Return a claim as an entry can hold it: a whole number that some JSON reader would round becomes text."""
    return str(value) if isinstance(value, int) and abs(value) > MAX_INT else value
