"""Agent ids: registered names and federated paths, which can never be taken for each other."""

from __future__ import annotations

import pytest

from broker.core.identity import MAX_ID, federated_id, is_name
from broker.core.selector import Selector


@pytest.mark.parametrize("name", ["a", "alice-oncall", "a.b_c-d", "0", "x" * 128])
def test_names(name: str) -> None:
    """Lower-case letters, digits and inner punctuation make a name."""
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "A", "-a", "a-", ".", "..", "a/b", "a b", "a\n", "a\x00", "ä", "\uff41", "a%2fb", "x" * 129, "a:b", "a@b"],
)
def test_no_names(name: str) -> None:
    """Anything that could be a path, hide a character or look like another name is refused."""
    assert not is_name(name)


def test_a_federated_id_is_never_a_name() -> None:
    """It has a slash, which no registered name has: registering a name cannot take over a federated identity."""
    assert not is_name(federated_id("prod", "support", "triage"))


@pytest.mark.parametrize("segments", [(), ("",), ("a", ""), ("", "a")])
def test_a_federated_id_needs_segments(segments: tuple[str, ...]) -> None:
    """Without a segment the id would be a bare name, and empty ones would make different identities look alike."""
    with pytest.raises(ValueError, match="segments"):
        federated_id("prod", *segments)


def test_different_identities_get_different_ids() -> None:
    """A separator inside a segment is encoded, so moving it does not give the same id."""
    ids = {
        federated_id("prod", "a", "b"),
        federated_id("prod", "a/b"),
        federated_id("prod", "a%2Fb"),
        federated_id("prod", "a%2fb"),
        federated_id("prod", "a", "B"),
        federated_id("prod", "a", "b "),
    }
    assert len(ids) == 6


def test_ids_are_ascii_and_printable() -> None:
    """Unicode and control characters are percent-encoded: an id can be logged, typed and put in a selector."""
    agent_id = federated_id("prod", "gr\u00fcn\n\u202e\x00", "\U0001f600")
    assert agent_id.isascii()
    assert agent_id.isprintable()
    assert Selector(agent=agent_id).agent == agent_id


def test_an_id_that_no_selector_could_name_is_refused() -> None:
    """An agent that could not be revoked by name must not get a token."""
    assert len(federated_id("prod", "x" * (MAX_ID - 5))) == MAX_ID
    with pytest.raises(ValueError, match="longer"):
        federated_id("prod", "x" * (MAX_ID - 4))
    with pytest.raises(ValueError, match="longer"):
        federated_id("prod", "\U0001f600" * 50)


def test_text_that_is_not_unicode_is_refused() -> None:
    """A lone surrogate, which JSON can smuggle in, has no encoding and so no id."""
    with pytest.raises(ValueError, match="surrogates"):
        federated_id("prod", "\ud800")
