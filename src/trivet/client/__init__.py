"""Trivet's SDK. Knows nothing of the server.

async with Client(["http://127.0.0.1:7480", "http://127.0.0.1:7482"]) as client:
    await client.enqueue("mail", {"to": "ada"})
"""

from trivet.client.blocking import BlockingClient
from trivet.client.client import Client
from trivet.client.effects import EffectGuard, Happened, NotPerformed
from trivet.client.errors import (
    ApiError,
    BadAnswer,
    EffectHeld,
    EffectUncertain,
    IdempotencyConflict,
    LeaseLost,
    MessageFailed,
    MessageNotFound,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    QueueFull,
    QueueNotFound,
    RunNotFound,
    ScheduleNotFound,
    StaleEffect,
    StaleLease,
    TopicNotFound,
    Unreachable,
)
from trivet.client.flows import Flow
from trivet.client.leases import Lease, Leases
from trivet.client.messages import Message
from trivet.client.producer import Producer
from trivet.client.retry import RetryPolicy, Verdict
from trivet.client.runs import RunEvent, RunWriter
from trivet.client.session import Attempt, Stats
from trivet.client.settling import Reject, RetryLater, WorkerStats
from trivet.client.topics import group_queue
from trivet.client.worker import Worker
from trivet.errors import TrivetError

__all__ = [
    "ApiError",
    "Attempt",
    "BadAnswer",
    "BlockingClient",
    "Client",
    "EffectGuard",
    "EffectHeld",
    "EffectUncertain",
    "Flow",
    "Happened",
    "IdempotencyConflict",
    "Lease",
    "LeaseLost",
    "Leases",
    "Message",
    "MessageFailed",
    "MessageNotFound",
    "NoLeader",
    "NotFound",
    "NotPerformed",
    "OutcomeUnknown",
    "Producer",
    "QueueFull",
    "QueueNotFound",
    "Reject",
    "RetryLater",
    "RetryPolicy",
    "RunEvent",
    "RunNotFound",
    "RunWriter",
    "ScheduleNotFound",
    "StaleEffect",
    "StaleLease",
    "Stats",
    "TopicNotFound",
    "TrivetError",
    "Unreachable",
    "Verdict",
    "Worker",
    "WorkerStats",
    "group_queue",
]
