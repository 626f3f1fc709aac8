"""Every limit of the product (api.md, rules R10-R31). A limit is inclusive: the value itself is accepted.

Each has a test just below and just above.
"""

from __future__ import annotations

from trivet.units import DAY_MS, HOUR_MS, KIB, MIB, MINUTE_MS, SECOND_MS

# --- names and small texts (bytes of UTF-8) ---------------------------------------------------------
NAME_BYTES_MAX = 256
ID_BYTES_MAX = 256  # ids, keys, groups, consumers, owners, envelope fields
ERROR_BYTES_MAX = 4 * KIB  # cut, never refused
NOTE_BYTES_MAX = 1 * KIB
RESULT_BYTES_MAX = 256 * KIB
CONTENT_TYPE_BYTES_MAX = 256

# --- messages -----------------------------------------------------------------------------------
BODY_BYTES_MAX = 1 * MIB
HEADERS_BYTES_MAX = 16 * KIB
HEADERS_MAX = 64
DEPENDS_ON_MAX = 100
JSON_DEPTH_MAX = 64
PRIORITY_MIN = -1000
PRIORITY_MAX = 1000
DELAY_MS_MAX = 400 * DAY_MS
TTL_MS_MAX = 400 * DAY_MS
ATTEMPTS_KEPT = 20
MAX_ATTEMPTS_MAX = 1_000_000

# --- requests -----------------------------------------------------------------------------------
ENQUEUE_BATCH_MAX = 1000
BATCH_BYTES_MAX = 8 * MIB
SETTLE_BATCH_MAX = 1000
LEASE_BATCH_MAX = 1000
LEASE_QUEUES_MAX = 64
ANSWER_BYTES_MAX = 8 * MIB  # lease and list answers (R25); at least one message
LIST_LIMIT_MAX = 1000
LIST_LIMIT_DEFAULT = 100
WAIT_MS_MAX = 60 * SECOND_MS
PARKED_POLLS_MAX = 10_000
REQUEST_BYTES_MAX = 12 * MIB  # an HTTP body as received, before it is decoded
REDRIVE_BATCH_MAX = 1000
FAN_OUT_MAX = 4096  # messages of a publish times the topic's groups (R28)

# --- leases, effects ----------------------------------------------------------------------------
LEASE_MS_MIN = 1
LEASE_MS_MAX = 12 * HOUR_MS
EFFECT_TTL_MS_DEFAULT = 5 * MINUTE_MS
EFFECT_TTL_MS_MAX = 12 * HOUR_MS
EFFECT_RETENTION_MS = 7 * DAY_MS
ACK_EFFECTS_MAX = 100
LEASE_EFFECTS_MAX = 1000  # effects granted under one lease and not ended (contract 4: they end with it)
EFFECT_TOKENS_KEPT = 100  # superseded tokens of one effect that are still told apart from unknown ones

# --- queues -------------------------------------------------------------------------------------
QUEUES_MAX = 10_000
KEYS_PER_QUEUE_MAX = 1_000_000  # and per topic
TOPICS_MAX = 10_000
GROUPS_PER_TOPIC_MAX = 64
TOPIC_MESSAGES_MAX = 10_000_000  # the most that `retention_messages` may be
TOPIC_RETENTION_MS_DEFAULT = DAY_MS
TOPIC_MESSAGES_DEFAULT = 100_000
MAX_DEAD_MAX = 10_000_000
RETENTION_MS_MAX = 400 * DAY_MS
BACKOFF_DELAYS_MAX = 100
BACKOFF_FACTOR_MAX = 1000
RETAINED_BYTES_MAX = 256 * MIB  # finished messages kept for their results (R24), oldest leave first

# --- runs (R29) ---------------------------------------------------------------------------------
RUN_EVENTS_MAX = 20_000  # of one run: the oldest leave
RUN_EVENT_BYTES_MAX = 8 * MIB  # of one run, types, data and event ids together: the oldest leave
RUN_EVENT_DATA_BYTES_MAX = 256 * KIB
RUN_APPEND_MAX = 1000  # events a request
RUN_APPEND_BYTES_MAX = 1 * MIB  # types, data and event ids of a request together
RUN_APPEND_REQUEST_BYTES_MAX = 4 * MIB  # the request as received, before it is decoded
RUN_RETENTION_MS = 1 * HOUR_MS  # after the last change of a run none of whose messages is in the tables
RUNS_IDLE_MAX = 100_000  # such runs; above it the oldest leave before their time
RUNS_BYTES_MAX = 512 * MIB  # events of all runs; above it such runs leave, and events are no longer taken
RUN_REPLAY_MAX = 1000  # messages one command replays

# --- flows --------------------------------------------------------------------------------------
FLOW_STEPS_MAX = 1000
FLOW_RETENTION_MS = 1 * HOUR_MS  # how long a flow stays readable after its end

# --- schedules ----------------------------------------------------------------------------------
SCHEDULES_MAX = 10_000
SCHEDULE_BYTES_MAX = 64 * MIB  # the messages of all schedules together
CRON_BYTES_MAX = 256
EVERY_MS_MIN = 100
EVERY_MS_MAX = 400 * DAY_MS
FIRE_BATCH_MAX = 100  # steps of one `FireSchedules`
SCHEDULE_RETRY_MS_MAX = 10 * SECOND_MS  # longest pause before a refused slot is tried again
SLOT_ON_TIME_MS = 5 * SECOND_MS  # a slot decided this late is still on time: a failover loses none

# --- windows ------------------------------------------------------------------------------------
REQUEST_WINDOW_MS = 60 * SECOND_MS
SETTLE_WINDOW_MS = 60 * SECOND_MS
SETTLED_TOKENS_MAX = 1_000_000
REQUEST_IDS_MAX = 1_000_000
REQUEST_REPLIES_BYTES_MAX = 256 * MIB  # stored replies of R12; above it new request ids are refused

# --- log, peers ---------------------------------------------------------------------------------
ENTRY_BYTES_MAX = 16 * MIB
ENTRY_BYTES_TARGET = 2 * MIB  # a batch stops growing here; one request may exceed it
FRAME_BYTES_MAX = 24 * MIB
EXPIRE_BATCH_MAX = 1000

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

assert BODY_BYTES_MAX + HEADERS_BYTES_MAX <= BATCH_BYTES_MAX
assert BATCH_BYTES_MAX < REQUEST_BYTES_MAX < ENTRY_BYTES_MAX < FRAME_BYTES_MAX
assert ENTRY_BYTES_TARGET <= ENTRY_BYTES_MAX
