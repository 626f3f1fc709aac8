"""One run of one scenario: clean, or struck at one point."""

from __future__ import annotations

from collections.abc import Callable

from tests.crashpoints.cluster import Cluster, Result, guarded
from tests.crashpoints.node import Probe
from tests.crashpoints.points import Point
from tests.crashpoints.scenarios import SCENARIOS, Scenario

CONTROLS = ("lying-fsync", "fresh-request-ids")
"""Each must be caught: a sync that does nothing (losses), clients that repeat under a new id (doublings)."""

Strike = Callable[[str, int], str | None]


def open_house(cluster: Cluster, stage: Scenario) -> None:
    """The uncounted prefix: a born cluster, its leader, and what the scenario wants to find there."""
    cluster.switch_on()
    cluster.run_until(lambda: cluster.leader() is not None, "first leader")
    leader = cluster.leader()
    assert leader is not None
    cluster.cast(leader)
    cluster.play(*stage.prepare(cluster))
    cluster.run_until(lambda: all(client.ended for client in cluster.clients), "prefix")
    if stage.before is not None:
        stage.before(cluster)


def play(
    scenario: str,
    story: int,
    victim: str,
    strike: Strike,
    control: str | None = None,
    log: bool = False,
    ended: Callable[[Result], None] = lambda result: None,
) -> Result:
    """From the first boot to the verdict. `ended` is told first (a forked run does not come back from it)."""
    stage = SCENARIOS[scenario]
    probe = Probe()
    probe.strike = strike
    cluster = Cluster(story, stage.options, probe, log)
    cluster.fresh_request_ids = control == "fresh-request-ids"

    def body() -> None:
        if stage.born:
            open_house(cluster, stage)
        else:
            cluster.roles = {"leader": "n1", "follower": "n2"}  # the one that founds, and another
        for node in cluster.nodes.values():
            node.disk.lying = control == "lying-fsync"
        probe.victim, cluster.deaths = cluster.roles[victim], 0
        cluster.world.trace("act")
        if stage.begin is not None:
            stage.begin(cluster)
        cluster.play(*stage.act(cluster))
        cluster.finish()
        probe.victim = None
        cluster.check()

    result = guarded(cluster, body)
    ended(result)
    return result


def replay(point: Point, control: str | None = None, log: bool = False) -> Result:
    """Strikes at one point; `fired` is None when the scenario passes without reaching it."""

    def strike(call: str, n: int) -> str | None:
        return point.fault if (call, n) == (point.call, point.n) else None

    return play(point.scenario, point.story, point.victim, strike, control, log)
