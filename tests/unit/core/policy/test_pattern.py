"""Only patterns that cannot explode are compiled."""

import time

import pytest

from broker.core.policy.pattern import MAX_INPUT, PatternError, compile_pattern


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (
            r"repo:acme/[a-z-]+:ref:refs/tags/v[0-9]+\.[0-9]+\.[0-9]+",
            "repo:acme/web:ref:refs/tags/v1.20.3",
            "repo:acme",
        ),
        (r"(?:prod|staging)-[a-z]{2,8}", "prod-eu", "test-eu"),
        ("agent-.*", "agent-1", "my-agent-1"),
        (".*-prod-.*", "eu-prod-1", "eu-test-1"),
        (r"v\d+(-rc)?", "v12-rc", "v12-beta"),
        (r"[^/]+/[^/]+", "a/b", "a/b/c"),
        (r"\w{4}", "ab_1", "äbcd"),
        ("[a\\-z]+", "a-z", "b"),
    ],
)
def test_useful_patterns(pattern: str, yes: str, no: str) -> None:
    """What policies need is there, and the whole value must match."""
    compiled = compile_pattern(pattern)
    assert compiled.fullmatch(yes)
    assert not compiled.fullmatch(no)


def test_a_line_end_is_not_passed_over() -> None:
    """The match ends where the value ends, not before its last line feed."""
    assert not compile_pattern("agent-[a-z]+").fullmatch("agent-a\n")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a+)+b", "group may be optional"),
        ("(a|b)*", "group may be optional"),
        ("(a|b){2}", "group may be optional"),
        (r"(a)\1", "is not offered"),
        ("(?=a)a", "lookarounds"),
        ("(?i)a", "lookarounds"),
        ("(?P<x>a)", "lookarounds"),
        ("^a$", "leave \\^ and \\$ out"),
        ("a$", "leave \\^ and \\$ out"),
        (r"\Aa", "is not offered"),
        ("a*?", "possessive and lazy"),
        ("a++", "possessive and lazy"),
        ("a**", "possessive and lazy"),
        ("a{2}{3}", "must follow"),
        ("a{2}*", "must follow"),
        ("*a", "must follow"),
        ("a|*b", "must follow"),
        ("(a", "not a regular expression"),
        ("a)", "not a regular expression"),
        ("[z-a]", "not a regular expression"),
        ("a{9,2}", "not a regular expression"),
        ("[", "is not offered"),
        ("a{1000}", "counts to 64"),
        ("a{100,}", "counts to 64"),
        (".*a.*b.*c", "only one repeat"),
        ("a*a*a*b", "only one repeat"),
        ("a+a?a+a?a+b", "only one repeat"),
        ("(a|a)" * 9, "at most 8 alternatives"),
        ("a?" * 9 + "b", "at most 8 alternatives"),
        ("x" * 257, "1 to 256"),
        ("", "1 to 256"),
        (".*", "matches the empty text"),
        ("(a|.*)", "matches the empty text"),
        ("a\\", "is not offered"),
        ("[a--b]x", "not offered in a class"),
        ("[a&&b]x", "not offered in a class"),
    ],
)
def test_patterns_that_are_refused(pattern: str, why: str) -> None:
    """Nested repeats, back-references, anchors, and what could take long are refused, with the reason."""
    with pytest.raises(PatternError, match=why):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", [".*-a-.*", "a*a*b", "[a-z]*[a-y]*z!", "(?:a?|a)(?:a?|a)(?:a?|a)(?:a|a)a*a*b", ".+x.+"]
)
def test_the_worst_allowed_patterns_end_soon(pattern: str) -> None:
    """On the longest and most unfortunate input, the slowest patterns allowed still take well under a second."""
    compiled = compile_pattern(pattern)
    start = time.process_time()
    for value in ("a" * MAX_INPUT, "a" * (MAX_INPUT - 1) + "c", "ax" * (MAX_INPUT // 2)):
        compiled.fullmatch(value)
    assert time.process_time() - start < 1.0
