"""Every limit of `trivet/limits.py` has a test just inside and just outside; this says which."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from trivet import limits

TESTS = Path(__file__).resolve().parents[1]

COVERED_BY = {
    "ACK_EFFECTS_MAX": "conformance/test_request_limits.py::test_an_ack_commits_at_most_100_effects",
    "ANSWER_BYTES_MAX": "conformance/test_request_limits.py::test_limits_of_a_list",
    "ATTEMPTS_KEPT": "unit/machine/test_leases.py::test_r20_zero_means_no_limit_and_a_message_may_have_its_own",
    "BACKOFF_DELAYS_MAX": "conformance/test_request_limits.py::test_a_backoff_has_at_most_100_delays",
    "BACKOFF_FACTOR_MAX": "conformance/test_limits.py::test_wrong_backoffs",
    "BATCH_BYTES_MAX": "conformance/test_limits.py::test_a_batch_has_at_most_8_mib",
    "BODY_BYTES_MAX": "conformance/test_limits.py::test_limits_of_a_message",
    "CONTENT_TYPE_BYTES_MAX": "conformance/test_limits.py::test_limits_of_a_message",
    "CRON_BYTES_MAX": "conformance/test_schedules.py::test_limits_of_cron_and_message",
    "EVERY_MS_MAX": "conformance/test_schedules.py::test_limits_of_an_interval",
    "EVERY_MS_MIN": "conformance/test_schedules.py::test_limits_of_an_interval",
    "FIRE_BATCH_MAX": "schedules/test_timekeeper.py::test_a_batch_has_at_most_so_many_steps",
    "SCHEDULES_MAX": "unit/machine/test_schedules.py::test_schedules_max",
    "SCHEDULE_BYTES_MAX": "unit/machine/test_schedules.py::test_schedule_bytes_max",
    "SCHEDULE_RETRY_MS_MAX": "unit/machine/test_schedules.py"
    "::test_a_slot_that_the_queue_refuses_is_owed_and_tried_again_later",
    "SLOT_ON_TIME_MS": "schedules/test_timekeeper.py::test_a_slot_is_on_time_for_five_seconds",
    "DELAY_MS_MAX": "conformance/test_limits.py::test_limits_of_a_message",
    "DEPENDS_ON_MAX": "conformance/test_limits.py::test_depends_on_has_at_most_100",
    "EFFECT_RETENTION_MS": "unit/machine/test_windows.py::test_r27_an_ended_effect_stays_for_seven_days",
    "EFFECT_TOKENS_KEPT": "unit/machine/test_ledger.py"
    "::test_superseded_tokens_are_told_from_unknown_ones_up_to_a_limit",
    "EFFECT_TTL_MS_DEFAULT": "unit/machine/test_ledger.py::test_without_a_length_a_grant_has_the_default",
    "EFFECT_TTL_MS_MAX": "conformance/test_effects.py::test_what_begin_refuses",
    "ENQUEUE_BATCH_MAX": "conformance/test_limits.py::test_a_batch_has_at_most_1000_messages",
    "ENTRY_BYTES_MAX": "unit/consensus/test_outcomes.py::test_an_entry_over_the_limit_is_the_callers_error",
    "ENTRY_BYTES_TARGET": "unit/node/test_broker.py"
    "::test_a_batch_stops_at_its_target_but_takes_one_request_of_any_size",
    "ERROR_BYTES_MAX": "unit/machine/test_leases.py::test_r31_an_error_is_cut_never_refused",
    "EXPIRE_BATCH_MAX": "unit/machine/test_leases.py::test_overdue_messages_met_by_a_lease_are_bounded",
    "FLOW_RETENTION_MS": "unit/machine/test_flows.py::test_an_ended_flow_stays_for_an_hour",
    "FLOW_STEPS_MAX": "conformance/test_flows.py::test_a_flow_has_at_most_1000_steps",
    "FRAME_BYTES_MAX": "unit/wire/test_frames.py"
    "::test_a_length_over_the_limit_is_refused_before_anything_is_kept",
    "FAN_OUT_MAX": "conformance/test_topics.py::test_r28_a_batch_times_the_groups_is_at_most_4096",
    "GROUPS_PER_TOPIC_MAX": "conformance/test_topics.py::test_r28_a_topic_has_at_most_64_groups",
    "TOPICS_MAX": "unit/machine/test_topics.py::test_r28_at_most_64_groups_and_the_limits_of_queues_and_topics",
    "TOPIC_MESSAGES_DEFAULT": "conformance/test_topics.py::test_a_topic_has_the_shape_of_the_contract",
    "TOPIC_MESSAGES_MAX": "conformance/test_topics.py::test_limits_of_a_topic",
    "TOPIC_RETENTION_MS_DEFAULT": "conformance/test_topics.py::test_a_topic_has_the_shape_of_the_contract",
    "HEADERS_BYTES_MAX": "conformance/test_limits.py::test_limits_of_a_message",
    "HEADERS_MAX": "conformance/test_limits.py::test_limits_of_a_message",
    "ID_BYTES_MAX": "conformance/test_limits.py::test_limits_of_a_message",
    "INT64_MAX": "conformance/test_limits.py::test_limits_of_a_message",
    "INT64_MIN": "conformance/test_limits.py::test_limits_of_a_message",
    "JSON_DEPTH_MAX": "conformance/test_limits.py::test_limits_of_a_message",
    "KEYS_PER_QUEUE_MAX": "unit/machine/test_keys.py::test_r16_the_cap_of_keys_refuses_and_forgets_nothing",
    "LEASE_BATCH_MAX": "conformance/test_limits.py::test_limits_of_a_lease",
    "LEASE_EFFECTS_MAX": "unit/machine/test_ledger.py::test_a_lease_holds_so_many_effects_and_no_more",
    "LEASE_MS_MAX": "conformance/test_limits.py::test_limits_of_a_lease",
    "LEASE_MS_MIN": "conformance/test_limits.py::test_limits_of_a_lease",
    "LEASE_QUEUES_MAX": "conformance/test_limits.py::test_a_lease_names_at_most_64_queues",
    "LIST_LIMIT_DEFAULT": "conformance/test_request_limits.py::test_a_list_shows_100_unless_asked_for_more",
    "LIST_LIMIT_MAX": "conformance/test_request_limits.py::test_limits_of_a_list",
    "MAX_ATTEMPTS_MAX": "conformance/test_limits.py::test_limits_of_a_queue",
    "MAX_DEAD_MAX": "conformance/test_limits.py::test_limits_of_a_queue",
    "NAME_BYTES_MAX": "conformance/test_limits.py::test_good_queue_names",
    "NOTE_BYTES_MAX": "conformance/test_limits.py::test_a_note_has_at_most_1_kib",
    "PARKED_POLLS_MAX": "unit/node/test_broker.py::test_at_most_so_many_are_parked",
    "PRIORITY_MAX": "conformance/test_limits.py::test_limits_of_a_message",
    "PRIORITY_MIN": "conformance/test_limits.py::test_limits_of_a_message",
    "QUEUES_MAX": "unit/machine/test_enqueue.py::test_at_most_so_many_queues",
    "REDRIVE_BATCH_MAX": "conformance/test_request_limits.py::test_redrive_names_at_most_1000_ids",
    "REQUEST_BYTES_MAX": "conformance/test_limits.py::test_a_request_has_at_most_12_mib",
    "REQUEST_IDS_MAX": "unit/machine/test_keys.py::test_r12_at_the_cap_new_ids_are_refused_and_old_ones_kept",
    "REQUEST_REPLIES_BYTES_MAX": "unit/machine/test_windows.py"
    "::test_r12_replies_are_remembered_up_to_so_many_bytes",
    "REQUEST_WINDOW_MS": "unit/machine/test_keys.py::test_r12_the_window_ends_and_the_id_may_be_used_again",
    "RESULT_BYTES_MAX": "conformance/test_limits.py::test_a_result_has_at_most_256_kib",
    "RETAINED_BYTES_MAX": "unit/machine/test_ack_with_enqueue.py"
    "::test_r24_over_the_limit_the_oldest_leave_first",
    "RETENTION_MS_MAX": "conformance/test_limits.py::test_limits_of_a_queue",
    "RUNS_BYTES_MAX": "unit/machine/test_runs.py::test_over_the_bytes_of_all_runs_idle_ones_go_and_appends_wait",
    "RUNS_IDLE_MAX": "unit/machine/test_runs.py::test_too_many_idle_runs_the_oldest_go",
    "RUN_APPEND_BYTES_MAX": "conformance/test_runs.py::test_limits_of_an_append",
    "RUN_APPEND_MAX": "conformance/test_runs.py::test_limits_of_an_append",
    "RUN_APPEND_REQUEST_BYTES_MAX": "conformance/test_runs.py::test_limits_of_an_append",
    "RUN_EVENTS_MAX": "unit/machine/test_runs.py::test_r29_at_most_20_000_events_the_oldest_go",
    "RUN_EVENT_BYTES_MAX": "unit/machine/test_runs.py::test_r29_at_most_8_mib_of_events_the_oldest_go",
    "RUN_EVENT_DATA_BYTES_MAX": "conformance/test_runs.py::test_limits_of_an_event",
    "RUN_REPLAY_MAX": "unit/machine/test_run_replay.py::test_r25_replay_goes_by_cursor_and_leaves_later_ones_alone",
    "RUN_RETENTION_MS": "unit/machine/test_runs.py::test_a_run_is_forgotten_an_hour_after_its_last_change",
    "SETTLED_TOKENS_MAX": "unit/machine/test_leases.py::test_r14_the_cap_forgets_the_oldest_and_counts_it",
    "SETTLE_BATCH_MAX": "conformance/test_request_limits.py::test_a_settle_batch_has_at_most_1000_items",
    "SETTLE_WINDOW_MS": "unit/machine/test_leases.py::test_r14_after_the_window_a_settled_token_is_not_found",
    "TTL_MS_MAX": "conformance/test_limits.py::test_limits_of_a_message",
    "WAIT_MS_MAX": "conformance/test_limits.py::test_a_wait_has_at_most_60_seconds",
}


@cache
def functions_of(path: str) -> set[str]:
    tree = ast.parse((TESTS / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_limit_names_its_test() -> None:
    names = {name for name in vars(limits) if re.fullmatch(r"[A-Z0-9_]+", name)}
    units = {name for name in names if re.fullmatch(r"(DAY|HOUR|MINUTE|SECOND)_MS|[KMG]IB", name)}
    assert names - units == set(COVERED_BY)


def test_the_named_tests_exist() -> None:
    missing = []
    for limit, where in COVERED_BY.items():
        path, _, test = where.partition("::")
        if not test or test not in functions_of(path):
            missing.append(f"{limit}: {where}")
    assert not missing, "\n".join(missing)
