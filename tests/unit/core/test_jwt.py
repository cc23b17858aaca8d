"""Every kind of JWT from outside is held to its row, check by check."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.core.jwk import KeySet, parse_jwk, parse_jwks
from broker.core.jwt import (
    ACCESS_TOKEN,
    CLIENT_ASSERTION,
    DPOP_PROOF,
    HEARTBEAT,
    MAX_TOKEN,
    PLATFORM_TOKEN,
    RULE_STATEMENT,
    RULES_SNAPSHOT,
    SPIFFE_SVID,
    Audience,
    InvalidToken,
    Row,
    parse,
    verify,
    verify_with_key,
)
from tests.support.identity_provider import SigningKey, forge

NOW = 1_795_300_000.0
ISSUER = "https://idp.example"
BROKER = "https://broker.example"
KEY = SigningKey(kid="one")
KEYS = parse_jwks({"keys": [KEY.published()]})
VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "jose.json").read_text())

CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "agent-1",
    "aud": BROKER,
    "client_id": "agent-1",
    "iat": int(NOW),
    "nbf": int(NOW),
    "exp": int(NOW) + 300,
    "jti": "j1",
    "htm": "POST",
    "htu": "https://broker.example/oauth2/token",
}
TYP = {
    ACCESS_TOKEN: "at+jwt",
    RULES_SNAPSHOT: "broker-rules+jwt",
    RULE_STATEMENT: "broker-rule+jwt",
    HEARTBEAT: "broker-heartbeat+jwt",
    CLIENT_ASSERTION: "client-authentication+jwt",
    PLATFORM_TOKEN: "JWT",
    SPIFFE_SVID: "JOSE",
    DPOP_PROOF: "dpop+jwt",
}
ROWS = list(TYP)
EXPIRING = [row for row in ROWS if row.expires]


def _why(
    token: str,
    row: Row = PLATFORM_TOKEN,
    keys: Any = KEYS,  # noqa: ANN401 - a key or a set
    *,
    issuer: str | None = ISSUER,
    audiences: tuple[str, ...] | None = (BROKER,),
    now: float = NOW,
    **more: Any,  # noqa: ANN401 - passed on
) -> str:
    """Return why a token is refused, or "good"."""
    try:
        verify_with_key(parse(token), row, keys, issuer=issuer, audiences=audiences, now=now, **more)
    except InvalidToken as error:
        return error.why
    return "good"


def _signed(row: Row = PLATFORM_TOKEN, /, **changes: object) -> str:
    """Return a token of the row's kind with some claims changed; a claim of ... is left out."""
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not ...}
    return KEY.sign(claims, typ=TYP[row])


# --- good tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_good_token_of_each_kind_passes(row: Row) -> None:
    """Its claims come back as they were signed, and the key that signed it."""
    token = parse(_signed(row))
    verified = verify_with_key(token, row, KEYS, issuer=ISSUER, audiences=[BROKER], now=NOW)
    assert verified.claims == CLAIMS
    assert verified.key.kid == "one"
    assert verify(token, row, KEYS, issuer=ISSUER, audiences=[BROKER], now=NOW) == CLAIMS


@pytest.mark.parametrize(
    "alg", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
)
def test_every_algorithm_that_a_row_may_list_works(alg: str) -> None:
    """Signed by one library's code, verified here; and a single changed bit is found."""
    key = SigningKey(kid="k", alg=alg)
    token = key.sign(CLAIMS)
    keys = parse_jwks({"keys": [key.published()]})
    row = replace(PLATFORM_TOKEN, algorithms=frozenset({alg}))
    assert _why(token, row, keys) == "good"
    head, payload, signature = token.split(".")
    spoiled = f"{head}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    assert _why(spoiled, row, keys) == "signature"
    assert _why(token, replace(row, algorithms=frozenset({"ES256K"})), keys) == "alg"


def test_the_new_name_of_eddsa_is_understood() -> None:
    """RFC 9864 clients write Ed25519; the key may be marked either way."""
    key = SigningKey(kid="k", alg="EdDSA")
    pyjwt.register_algorithm("Ed25519", pyjwt.get_algorithm_by_name("EdDSA"))
    try:
        token = pyjwt.encode(CLAIMS, key.private, algorithm="Ed25519", headers={"kid": "k"})
    finally:
        pyjwt.unregister_algorithm("Ed25519")
    assert _why(token, CLIENT_ASSERTION, parse_jwks({"keys": [key.published()]})) == "good"


@pytest.mark.parametrize("vector", VECTORS["signatures"], ids=lambda vector: vector["source"])
def test_the_rfcs_own_example_passes(vector: dict[str, Any]) -> None:
    """RFC 7515's ES256 example has a good signature, and has expired long ago."""
    row = Row(
        name="example",
        types=frozenset({"jwt"}),
        typ_required=False,
        algorithms=frozenset({"ES256"}),
        audience=Audience.NONE,
    )
    key = parse_jwk(vector["jwk"])
    assert _why(vector["token"], row, key, issuer=vector["issuer"], now=vector["exp"] - 1) == "good"
    assert _why(vector["token"], row, key, issuer=vector["issuer"], now=vector["exp"] + 31) == "expired"


# --- 1: form --------------------------------------------------------------------------------------------------------

GOOD = _signed()
HEAD, PAYLOAD, SIGNATURE = GOOD.split(".")
ES256: Mapping[str, Any] = {"alg": "ES256", "kid": "one"}

MALFORMED = {
    "empty": "",
    "one part": HEAD,
    "two parts": f"{HEAD}.{PAYLOAD}",
    "four parts": f"{GOOD}.{SIGNATURE}",
    "five parts, an encrypted token": f"{HEAD}.a.b.c.d",
    "no header": f".{PAYLOAD}.{SIGNATURE}",
    "no payload": f"{HEAD}..{SIGNATURE}",
    "no signature": f"{HEAD}.{PAYLOAD}.",
    "padding": f"{HEAD}=.{PAYLOAD}.{SIGNATURE}",
    "white space before": f" {GOOD}",
    "newline after": f"{GOOD}\n",
    "not ASCII": f"{GOOD}\u00e9",
    "surrogate": f"{GOOD}\ud800",
    "wide letters": GOOD.replace(HEAD[0], "\uff45", 1),
    "standard alphabet": f"{HEAD}.{PAYLOAD}+/.{SIGNATURE}",
    "last bits set": f"{HEAD}.{PAYLOAD}.{SIGNATURE[:-1]}{'B' if SIGNATURE[-1] != 'B' else 'C'}",
    "JSON serialisation": json.dumps({"payload": PAYLOAD, "signatures": []}),
    "too long": f"{HEAD}.{'A' * MAX_TOKEN}.{SIGNATURE}",
    "header no object": forge([ES256], CLAIMS),
    "payload no object": forge(ES256, [CLAIMS]),
    "payload a text": forge(ES256, '"sub"'),
    "header no JSON": forge("alg: none", CLAIMS),
    "duplicate alg": forge('{"alg":"none","alg":"ES256"}', CLAIMS),
    "duplicate claim": forge(ES256, '{"sub":"a","sub":"b"}'),
    "duplicate deep inside": forge(ES256, '{"a":[{"b":{"c":1,"c":1}}]}'),
    "nesting bomb": forge(ES256, "[" * 6000),
    "nested objects": forge(ES256, '{"a":' * 1500 + "1" + "}" * 1500),
    "number bomb": forge(ES256, '{"exp":' + "9" * 9000 + "}"),
    "not a number": forge(ES256, '{"exp":NaN}'),
    "infinite": forge(ES256, '{"exp":1e400}'),
    "lone surrogate": forge(ES256, '{"sub":"\\ud800"}'),
    "crit": forge({**ES256, "crit": ["exp"]}, CLAIMS),
    "b64": forge({**ES256, "b64": False}, CLAIMS),
    "zip": forge({**ES256, "zip": "DEF"}, CLAIMS),
}


@pytest.mark.parametrize("token", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_has_not_the_form_of_a_token_is_refused(token: str) -> None:
    """Before anything in it is looked at, and with nothing of it in the error."""
    with pytest.raises(InvalidToken) as refused:
        parse(token)
    assert refused.value.why == "malformed"
    assert str(refused.value) == "the token is not a well-formed JWT"


def test_the_longest_token_is_read_and_no_longer_one() -> None:
    """The bound is exact; callers with larger documents say so."""
    token = KEY.sign({**CLAIMS, "fill": ""})
    room = (MAX_TOKEN - len(token)) // 4 * 3 - 2
    longest = KEY.sign({**CLAIMS, "fill": "x" * room})
    assert MAX_TOKEN - 8 < len(longest) <= MAX_TOKEN
    assert _why(longest) == "good"
    longer = KEY.sign({**CLAIMS, "fill": "x" * (room + 12)})
    assert _why(longer) == "malformed"
    assert parse(longer, max_bytes=MAX_TOKEN * 2).payload["sub"] == "agent-1"


def test_what_is_unverified_can_be_asked_whom_it_names_and_is_not_printed() -> None:
    """An unverified token says whose it claims to be; printing it shows none of it."""
    token = parse(_signed(iss=ISSUER, sub=5))
    assert token.names("iss") == ISSUER
    assert token.names("sub") is None
    assert token.names("missing") is None
    assert "idp.example" not in repr(token)
    assert "idp.example" not in repr(
        verify_with_key(parse(GOOD), PLATFORM_TOKEN, KEYS, issuer=ISSUER, audiences=None, now=NOW)
    )


# --- 2: typ ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("other", [*ROWS, None], ids=lambda row: "absent" if row is None else row.name)
def test_no_kind_of_token_passes_as_another(row: Row, other: Row | None) -> None:
    """A token is accepted where its ``typ`` belongs, and nowhere else; where ``typ`` is demanded, absence fails."""
    token = KEY.sign(CLAIMS, typ=None if other is None else TYP[other])
    fits = not row.typ_required if other is None else TYP[other].lower() in row.types
    assert _why(token, row) == ("good" if fits else "typ")


@pytest.mark.parametrize("typ", ["AT+JWT", "application/at+jwt", "Application/At+Jwt"])
def test_typ_is_a_media_type(typ: str) -> None:
    """Compared without regard to case, with or without ``application/`` (RFC 7515, 4.1.9)."""
    assert _why(KEY.sign(CLAIMS, typ=typ), ACCESS_TOKEN) == "good"


@pytest.mark.parametrize(
    "typ", ["", " at+jwt", "at+jwt ", "text/at+jwt", "application/application/at+jwt", "secevent+jwt", "\u0130", "JWT"]
)
def test_another_typ_fails(typ: str) -> None:
    """A near miss is a miss."""
    assert _why(forge({**ES256, "typ": typ}, CLAIMS), ACCESS_TOKEN) == "typ"


@pytest.mark.parametrize("typ", [1, None, ["at+jwt"], {"at+jwt": 1}, True])
def test_typ_must_be_text(typ: object) -> None:
    """Other JSON values are no type, and null is not the same as absent."""
    assert _why(forge({**ES256, "typ": typ}, CLAIMS), ACCESS_TOKEN) == "typ"
    assert _why(forge({**ES256, "typ": typ}, CLAIMS), PLATFORM_TOKEN) == "typ"


# --- 3 and 4: algorithm and key -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "", "HS256", "HS384", "HS512", "ES256K", "RSA-OAEP", 5, None, ["ES256"]]
)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_other_algorithms_are_refused_everywhere(row: Row, alg: object) -> None:
    """Most of all ``none``, and those of shared secrets."""
    assert _why(forge({"alg": alg, "kid": "one", "typ": TYP[row]}, CLAIMS), row) == "alg"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_public_key_is_no_shared_secret(row: Row) -> None:
    """An HMAC under the published key, in any of its spellings, is no signature."""
    public = KEY.private.public_key()
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(KEY.published()).encode(),
    ):
        unsigned = forge({"alg": "HS256", "kid": "one", "typ": TYP[row]}, CLAIMS).rpartition(".")[0]
        mac = hmac.digest(secret, unsigned.encode(), hashlib.sha256)
        token = forge({"alg": "HS256", "kid": "one", "typ": TYP[row]}, CLAIMS, mac)
        assert _why(token, row) == "alg"


def test_the_algorithm_must_fit_the_key() -> None:
    """Its type, its curve, and what its publisher said that it is for."""
    rsa = SigningKey(kid="rsa", alg="RS256")
    keys = parse_jwks({"keys": [KEY.published(), rsa.published()]})
    row = replace(PLATFORM_TOKEN, algorithms=frozenset({"ES256", "ES384", "RS256", "PS256"}))
    assert _why(rsa.sign(CLAIMS), row, keys) == "good"
    assert _why(rsa.sign(CLAIMS, kid="one"), row, keys) == "alg"
    assert _why(forge({"alg": "ES384", "kid": "one"}, CLAIMS), row, keys) == "alg"
    other = pyjwt.encode(CLAIMS, rsa.private, algorithm="PS256", headers={"kid": "rsa"})
    assert _why(other, row, keys) == "alg"
    undeclared = {name: value for name, value in rsa.published().items() if name != "alg"}
    assert _why(other, row, parse_jwks({"keys": [undeclared]})) == "good"


def test_a_key_of_one_issuer_verifies_nothing_of_another() -> None:
    """Not even when both call their keys by the same name."""
    stranger = SigningKey(kid="one")
    assert _why(stranger.sign(CLAIMS)) == "signature"
    assert _why(stranger.sign(CLAIMS, kid="two")) == "kid"


@pytest.mark.parametrize("kid", [None, "", "two", 1, ["one"], "one\x00", "../one", "k" * 20_000])
def test_a_key_must_be_named_exactly(kid: object) -> None:
    """An issuer's token without a known ``kid`` has no key, however few keys there are."""
    header = {"alg": "ES256"} if kid is None else {"alg": "ES256", "kid": kid}
    assert _why(forge(header, CLAIMS)) in {"kid", "malformed"}


def test_keys_inside_the_token_are_not_looked_at() -> None:
    """A token cannot bring its own key, by value or by address."""
    mine = SigningKey(kid="one")
    headers = {
        "jwk": mine.published(),
        "jku": "https://evil.example/keys",
        "x5u": "https://evil.example",
        "x5c": ["AA=="],
    }
    assert _why(mine.sign(CLAIMS, **headers)) == "signature"
    assert _why(KEY.sign(CLAIMS, **headers)) == "good"


def test_no_keys_verify_nothing() -> None:
    """An empty key set is no open door."""
    assert _why(GOOD, keys=KeySet([])) == "kid"


# --- 5: signature ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signature", [b"\x00" * 64, b"\xff" * 64, b"x", b"\x00" * 63, b"\x00" * 1000])
def test_signatures_made_of_nothing_fail(signature: bytes) -> None:
    """Zeros and other shapes are no ECDSA signature."""
    assert _why(forge(ES256, CLAIMS, signature)) == "signature"


def test_a_changed_claim_breaks_the_signature() -> None:
    """So does a signature taken from another token."""
    other = _signed(sub="agent-2")
    assert _why(f"{HEAD}.{other.split('.')[1]}.{SIGNATURE}") == "signature"


# --- 6: times -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", EXPIRING, ids=lambda row: row.name)
def test_every_kind_that_ends_has_an_end(row: Row) -> None:
    """``exp`` must be there, and lie ahead but for the skew."""
    assert _why(_signed(row, exp=...), row) == "claims"
    assert _why(_signed(row, exp=int(NOW) - 29), row) == "good"
    assert _why(_signed(row, exp=int(NOW) - 30), row) == "expired"
    assert _why(_signed(row, exp=int(NOW) + 1), row, now=NOW + 1, grace=0) == "expired"
    assert _why(_signed(row, exp=int(NOW) + 1), row, now=NOW + 0.999, grace=0) == "good"


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["1795300100", True, None, [1795300100], {}, -1])
def test_times_are_numbers(name: str, value: object) -> None:
    """Not texts, not flags, and null is not the same as absent."""
    assert _why(_signed(**{name: value})) == "claims"


def test_times_may_have_fractions() -> None:
    """NumericDate allows them (RFC 7519, 2)."""
    assert _why(_signed(exp=NOW + 0.5, iat=NOW - 0.5, nbf=NOW - 0.5)) == "good"


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_from_the_future_is_refused(name: str) -> None:
    """A little skew is tolerated."""
    assert _why(_signed(**{name: int(NOW) + 30})) == "good"
    assert _why(_signed(**{name: int(NOW) + 31})) == "not_yet_valid"


def test_lifetimes_are_bounded() -> None:
    """From ``iat`` to ``exp``; without ``iat``, from now."""
    day = 24 * 3600
    assert _why(_signed(exp=int(NOW) + day)) == "good"
    assert _why(_signed(exp=int(NOW) + day + 1)) == "lifetime"
    assert _why(_signed(exp=int(NOW) + day, iat=int(NOW) - 1)) == "lifetime"
    assert _why(_signed(exp=int(NOW) + day, iat=...)) == "good"
    assert _why(_signed(exp=int(NOW) + day + 1, iat=...)) == "lifetime"
    assert _why(_signed(exp=1e300)) == "lifetime"


def test_an_assertion_must_end_soon() -> None:
    """Whatever its ``iat`` says: it is remembered until then."""
    assert _why(_signed(CLIENT_ASSERTION, exp=int(NOW) + 330), CLIENT_ASSERTION) == "good"
    assert _why(_signed(CLIENT_ASSERTION, exp=int(NOW) + 331), CLIENT_ASSERTION) == "lifetime"
    assert _why(_signed(CLIENT_ASSERTION, exp=int(NOW) + 400, iat=int(NOW) - 1000), CLIENT_ASSERTION) == "lifetime"


# --- 7: issuer and audience -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "issuer", ["https://idp.example/", "https://IDP.example", "http://idp.example", "", ..., None, 5, [ISSUER]]
)
def test_the_issuer_is_compared_exactly(issuer: object) -> None:
    """No slash more, no letter larger, and none is not any."""
    assert _why(_signed(iss=issuer)) == "issuer"


def test_a_row_that_needs_an_issuer_is_not_satisfied_with_none() -> None:
    """Forgetting to say whom we expect refuses everything."""
    assert _why(GOOD, issuer=None) == "issuer"
    assert _why(_signed(iss=...), issuer=None) == "issuer"
    assert _why(_signed(SPIFFE_SVID, iss=...), SPIFFE_SVID, issuer=None) == "good"


@pytest.mark.parametrize("row", [row for row in ROWS if row.audience is not Audience.NONE], ids=lambda row: row.name)
def test_the_audience_must_be_ours(row: Row) -> None:
    """As a text or as a list of one; compared exactly; never absent."""
    assert _why(_signed(row, aud=BROKER), row) == _why(_signed(row, aud=[BROKER]), row) == "good"
    wrong: tuple[object, ...] = (
        ...,
        "",
        [],
        None,
        5,
        {BROKER: 1},
        f"{BROKER}/",
        BROKER.upper(),
        "https://other.example",
        [[BROKER]],
        [BROKER, 5],
        [None],
        f"{BROKER} https://other.example",
    )
    for audience in wrong:
        assert _why(_signed(row, aud=audience), row) == "audience", audience
    assert _why(_signed(row), row, audiences=()) == "audience"


def test_some_kinds_must_be_for_us_alone() -> None:
    """A platform token may have other audiences, an assertion or an access token may not."""
    both = [BROKER, "https://other.example"]
    for row in (PLATFORM_TOKEN, SPIFFE_SVID):
        assert _why(_signed(row, aud=both), row) == "good"
    for row in (ACCESS_TOKEN, CLIENT_ASSERTION):
        assert _why(_signed(row, aud=both), row) == "audience"
        assert _why(_signed(row, aud=[BROKER, BROKER]), row) == "audience"


def test_the_comparison_may_be_left_to_the_caller_but_not_the_form() -> None:
    """Introspection looks at the audience later; a token without one is still none."""
    assert _why(_signed(ACCESS_TOKEN, aud="https://other.example"), ACCESS_TOKEN, audiences=None) == "good"
    assert _why(_signed(ACCESS_TOKEN, aud=...), ACCESS_TOKEN, audiences=None) == "audience"
    assert _why(_signed(ACCESS_TOKEN, aud=["a", "b"]), ACCESS_TOKEN, audiences=None) == "audience"


# --- 8: identifiers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_required_claims_are_required(row: Row) -> None:
    """One by one."""
    for name in row.required:
        assert _why(_signed(row, **{name: ...}), row) == "claims", name


@pytest.mark.parametrize("name", ["sub", "jti", "client_id"])
@pytest.mark.parametrize("value", ["", 5, None, True, ["a"], {}, "x" * 513, "a\nb", "a\x00", "a\u202eb", "a\u200bb"])
def test_identifiers_are_printable_texts(name: str, value: object) -> None:
    """Present ones must be sound even where they are not required: they end up in records."""
    assert _why(_signed(**{name: value})) == "claims"


@pytest.mark.parametrize("value", ["x" * 512, "a b", "\u00fc", "spiffe://corp.example/a", "a:b:c"])
def test_any_printable_identifier_will_do(value: str) -> None:
    """What platforms use as names is not ours to narrow."""
    assert _why(_signed(sub=value)) == "good"


# --- order ----------------------------------------------------------------------------------------------------------


def test_the_checks_come_in_their_order() -> None:
    """A token that is wrong in every way is refused for the first; what is after the signature says nothing before."""
    wrong: dict[str, Any] = {"exp": 1, "iss": "x", "aud": "x", "sub": ""}
    bad = {**CLAIMS, **wrong}
    assert _why(forge({"alg": "none", "typ": "x", "kid": "x"}, bad)) == "typ"
    assert _why(forge({"alg": "none", "kid": "x"}, bad)) == "alg"
    assert _why(forge({"alg": "ES256", "kid": "x"}, bad)) == "kid"
    assert _why(forge({"alg": "ES256", "kid": "one"}, bad)) == "signature"
    assert _why(_signed(**wrong)) == "expired"
    assert _why(_signed(**{**wrong, "exp": int(NOW) + 9})) == "issuer"
    assert _why(_signed(aud="x", sub="")) == "audience"
    assert _why(_signed(sub="")) == "claims"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_lists_only_what_can_be_verified(row: Row) -> None:
    """What metadata advertises works, and no row takes a shared secret."""
    assert row.algorithms
    assert not {alg for alg in row.algorithms if alg.startswith("HS") or alg == "none"}
