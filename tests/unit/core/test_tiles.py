"""Names and contents of tiles, against what the specification says of them."""

from __future__ import annotations

import pytest

from broker.core.merkle import Frontier, leaf_hash, root_of
from broker.core.tiles import Tile, bundle, cut_bundle, cut_hashes, parse_tile_path, subtree_root, tiles_of

LEAVES = [leaf_hash(number.to_bytes(4, "big")) for number in range(600)]


@pytest.mark.parametrize(
    ("path", "tile"),
    [
        ("0/x001/x234/067", Tile(0, 1_234_067)),  # the example of the specification
        ("0/000", Tile(0, 0)),
        ("0/999", Tile(0, 999)),
        ("1/x001/000.p/17", Tile(1, 1000, 17)),
        ("63/000.p/1", Tile(63, 0, 1)),
        ("entries/x273/273.p/255", Tile(None, 273_273, 255)),
    ],
)
def test_names(path: str, tile: Tile) -> None:
    """A tile has one name, which leads back to it."""
    assert tile.path == path
    assert parse_tile_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "0",
        "0/",
        "0/0",
        "0/00",
        "0/0000",
        "00/000",
        "-1/000",
        "+1/000",
        "0/x000/001",
        "0/001/002",
        "0/x001/x002",
        "0/X001/002",
        "0/000.p/0",
        "0/000.p/00",
        "0/000.p/01",
        "0/000.p/256",
        "0/000.p/999",
        "0/000.p/",
        "0/000.p",
        "0/000.p/1/",
        "0//000",
        "/0/000",
        "0/000\n",
        "0/\u0660\u0660\u0660",
        "Entries/000",
        "data/000",
        "0/../000",
        "0/" + "x999/" * 9 + "999",
    ],
)
def test_what_names_no_tile(path: str) -> None:
    """Any other spelling is refused, so that nothing is stored or kept twice."""
    assert parse_tile_path(path) is None


def test_the_tree_of_the_specification() -> None:
    """A tree of 70,000 has just the tiles that the specification counts; one of 256 has a level 1."""
    level_0, level_1, level_2 = (list(tiles_of(level, 70_000)) for level in range(3))
    assert (len(level_0), level_0[-1]) == (274, Tile(0, 273, 112))
    assert all(tile.is_full for tile in level_0[:-1])
    assert level_1 == [Tile(1, 0), Tile(1, 1, 17)]
    assert level_2 == [Tile(2, 0, 1)]
    assert list(tiles_of(3, 70_000)) == []
    assert list(tiles_of(None, 70_000))[-1] == Tile(None, 273, 112)
    assert [*tiles_of(0, 256), *tiles_of(1, 256)] == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0, 0)) == []


def test_which_tiles_exist() -> None:
    """What a tree of this size has, and no wider."""
    assert Tile(0, 273, 112).exists(70_000)
    assert Tile(0, 273, 1).exists(70_000)
    assert not Tile(0, 273, 113).exists(70_000)
    assert not Tile(0, 273).exists(70_000)
    assert not Tile(0, 274, 1).exists(70_000)
    assert Tile(2, 0, 1).exists(70_000)
    assert not Tile(3, 0, 1).exists(70_000)
    assert not Tile(63, 0, 1).exists(2**63 - 1)


def test_a_subtree_is_computed_across_levels() -> None:
    """The right edge of a tree of 600 has two full tiles and a partial one."""
    nodes = Frontier().extend(LEAVES)[1]
    levels = [LEAVES, [node.hash for node in nodes]]
    assert subtree_root(lambda level, start, end: levels[level][start:end], 0, 600) == root_of(LEAVES)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (1, 3), (256, 1024), (-2, 0), (5, 4), (255, 257)])
def test_what_is_no_subtree(start: int, end: int) -> None:
    """Leaves that no tree has under one node are an error of the caller."""
    with pytest.raises(ValueError, match="not a subtree"):
        subtree_root(lambda *_: LEAVES[:1], start, end)


def test_bundles() -> None:
    """Entries stand behind their lengths; the longest that an entry can have fits."""
    entries = [b"", b"x", b"\0" * 65_535]
    assert bundle(entries[:2]) == b"\0\0\0\x01x"
    assert cut_bundle(bundle(entries)) == entries
    assert cut_bundle(b"") == []
    with pytest.raises(OverflowError):
        bundle([b"\0" * 65_536])


@pytest.mark.parametrize("torn", [b"\0", b"\0\x01", b"\0\x02x", b"\0\0\0"])
def test_torn_bundles(torn: bytes) -> None:
    """A bundle that was cut off is none."""
    with pytest.raises(ValueError, match="middle of an entry"):
        cut_bundle(torn)


def test_hashes_of_a_tile() -> None:
    """They are whole."""
    assert cut_hashes(b"".join(LEAVES[:3])) == LEAVES[:3]
    with pytest.raises(ValueError, match="hashes of 32"):
        cut_hashes(b"".join(LEAVES[:3])[:-1])
