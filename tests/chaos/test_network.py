"""The shapes of partitions, for 3 and 5 nodes."""

from __future__ import annotations

import pytest
from chaos.faults import network
from chaos.faults.network import Links

SIZES = (3, 5)


def hears(links: Links, size: int) -> dict[int, set[int]]:
    """Whom each node hears, itself included."""
    nodes = range(1, size + 1)
    return {node: {other for other in nodes if (other, node) not in links} for node in nodes}


def made(shape: network.Shape, size: int) -> dict[int, set[int]]:
    links = shape(list(range(1, size + 1)))
    assert len(links) == len(set(links)) and all(source != target for source, target in links)
    return hears(links, size)


@pytest.mark.parametrize("size", SIZES)
def test_alone(size: int) -> None:
    heard = made(network.alone, size)
    assert heard[1] == {1}
    assert all(heard[node] == set(range(2, size + 1)) for node in range(2, size + 1))


@pytest.mark.parametrize("size", SIZES)
def test_halves_leave_the_target_in_a_minority(size: int) -> None:
    heard = made(network.halves, size)
    small = set(range(1, (size - 1) // 2 + 1))
    assert all(heard[node] == (small if node in small else set(heard) - small) for node in heard)


@pytest.mark.parametrize("size", SIZES)
def test_over_a_bridge_only_the_target_hears_all(size: int) -> None:
    heard = made(network.bridge, size)
    assert heard[1] == set(heard)
    sides = {frozenset(heard[node] - {1}) for node in range(2, size + 1)}
    assert len(sides) == 2 and {len(side) for side in sides} == {(size - 1) // 2}
    assert made(network.chain_end, size)[1] != set(heard)


@pytest.mark.parametrize("size", SIZES)
def test_in_a_ring_each_hears_a_majority_and_no_two_the_same(size: int) -> None:
    heard = made(network.ring, size)
    assert {len(one) for one in heard.values()} == {size // 2 + 1}
    assert len({frozenset(one) for one in heard.values()}) == size
    assert all(node in one for node, one in heard.items())


@pytest.mark.parametrize("size", SIZES)
def test_mute_and_deaf_are_one_way(size: int) -> None:
    mute, deaf = made(network.mute, size), made(network.deaf, size)
    assert mute[1] == set(mute) and all(1 not in mute[node] for node in range(2, size + 1))
    assert deaf[1] == {1} and all(deaf[node] == set(deaf) for node in range(2, size + 1))
