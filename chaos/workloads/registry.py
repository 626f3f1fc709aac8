"""The workloads by their names."""

from __future__ import annotations

from chaos.workloads.admin import Admin
from chaos.workloads.base import Workload
from chaos.workloads.bulk import Bulk
from chaos.workloads.dead_letters import DeadLetters
from chaos.workloads.delays import Delays
from chaos.workloads.enqueue import Keyed
from chaos.workloads.flows import Flows
from chaos.workloads.groups import Groups
from chaos.workloads.mixes import Mixes
from chaos.workloads.pipeline import Pipeline
from chaos.workloads.reads import Reads
from chaos.workloads.runs import Runs
from chaos.workloads.schedules import Schedules
from chaos.workloads.topics import Topics
from chaos.workloads.work import Work
from chaos.workloads.zombies import Zombies

WORKLOADS: dict[str, type[Workload]] = {
    one.name: one
    for one in (
        *(Keyed, Bulk, Work, Groups, Delays, DeadLetters),
        *(Pipeline, Mixes, Zombies, Reads, Admin, Flows, Topics, Schedules, Runs),
    )
}
