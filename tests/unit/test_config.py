"""The configuration: sources and their order, every limit, all problems at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trivet import config as module
from trivet.config import Address, Config, ConfigError, from_values, load, parse_address, reference

THREE = "n1=127.0.0.1:7481,n2=127.0.0.1:7483,n3=127.0.0.1:7485"


def problems(values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        from_values(values)
    return caught.value.problems


def test_the_defaults_are_a_single_node() -> None:
    config = load()
    assert config == Config()
    assert config.members == {} and config.raft_listen is None
    assert config.api_url == "http://127.0.0.1:7480"


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "trivet.toml"
    file.write_text(
        '[node]\nid = "n1"\n[raft]\nheartbeat_ms = 50\n[log]\nlevel = "debug"\n[api]\ndrain_ms = 1\n'
    )
    config = load(
        file,
        {"TRIVET__RAFT__HEARTBEAT_MS": "60", "TRIVET__LOG__LEVEL": "error", "PATH": "/bin", "TRIVET_X": "1"},
        ["log.level=warning"],
    )
    assert (config.api.drain_ms, config.raft.heartbeat_ms, config.log.level) == (1, 60, "warning")


def test_members_in_every_source(tmp_path: Path) -> None:
    file = tmp_path / "trivet.toml"
    file.write_text(f"[cluster]\nmembers = {THREE.split(',')}\nbootstrap = true\n".replace("'", '"'))
    for config in (
        load(file),
        load(environ={"TRIVET__CLUSTER__MEMBERS": THREE, "TRIVET__CLUSTER__BOOTSTRAP": "yes"}),
        load(overrides=[f"cluster.members={THREE}", "cluster.bootstrap=on"]),
    ):
        assert config.members == {
            "n1": Address("127.0.0.1", 7481),
            "n2": Address("127.0.0.1", 7483),
            "n3": Address("127.0.0.1", 7485),
        }
        assert config.raft_listen == Address("127.0.0.1", 7481)
        assert config.cluster.bootstrap


def test_all_problems_are_told_at_once_with_key_and_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "trivet.toml"
    file.write_text('[nod]\nid = "x"\n[node]\nidd = "x"\n[raft]\nheartbeat_ms = "5"\nelection_min_ms = 49\n')
    with pytest.raises(ConfigError) as caught:
        load(file, {"TRIVET__LOG__LEVL": "info"}, ["api.listn=x", "nonsense"])
    text = "\n".join(caught.value.problems)
    for expected in (
        'unknown setting "[nod]"; did you mean "[node]"?',
        'unknown setting "node.idd"; did you mean "node.id"?',
        'unknown setting "TRIVET__LOG__LEVL"; did you mean "TRIVET__LOG__LEVEL"?',
        'unknown setting "api.listn"; did you mean "api.listen"?',
        "--set nonsense",
        "raft.heartbeat_ms: a whole number is needed, not '5'",
        "raft.election_min_ms: 49 is not in 50 … 60000",
    ):
        assert expected in text
    assert len(caught.value.problems) == 7


@pytest.mark.parametrize(
    "content",
    ["[node\n", "node = 1\n", "[node]\nid = 1\n[node]\nid = 2\n", "\xff\xfe", "[cluster]\nmembers = [1]\n"],
)
def test_a_bad_file_is_a_problem_not_a_crash(tmp_path: Path, content: str) -> None:
    file = tmp_path / "trivet.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError):
        load(file)


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "field", [f for f in module._TABLE.values() if f.low is not None], ids=lambda f: f.key
)
def test_every_number_has_its_limits_and_they_are_inclusive(field: Any) -> None:
    # Partners that must stay in order when one of them moves to an end of its range.
    room: dict[str, Any] = {
        "raft.heartbeat_ms": {"raft.election_min_ms": 60_000, "raft.election_max_ms": 120_000},
        "raft.election_min_ms": {"raft.heartbeat_ms": 10, "raft.election_max_ms": 120_000},
        "raft.election_max_ms": {"raft.heartbeat_ms": 10, "raft.election_min_ms": 50},
        "storage.disk_floor_bytes": {"storage.disk_reserve_bytes": 1 << 40},
        "storage.disk_reserve_bytes": {"storage.disk_floor_bytes": 1 << 20},
    }.get(field.key, {})
    section, name = field.key.split(".")
    for value in (field.low, field.high):
        if field.key == "storage.disk_floor_bytes" and value == field.high:
            continue  # it must stay below the reserve, whose limit is the same
        config = from_values({**room, field.key: value})
        assert getattr(getattr(config, section), name) == value
    for value in (field.low - 1, field.high + 1):
        assert any(f"{field.key}: {value} is not in" in p for p in problems({**room, field.key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("node.id", 1), ("cluster.bootstrap", 1), ("cluster.bootstrap", "true"), ("raft.heartbeat_ms", True),
     ("raft.heartbeat_ms", 1.5), ("cluster.members", "n1=x:1"), ("api.follower_mode", "proxy"), ("log.level", "INFO")],
)  # fmt: skip
def test_wrong_types_and_choices_are_refused(key: str, value: Any) -> None:
    assert any(problem.startswith(f"{key}:") for problem in problems({key: value}))


@pytest.mark.parametrize("text", ["1e3", "-1", "0x10", "", "１２", "9" * 21])
def test_numbers_in_texts_are_plain(text: str) -> None:
    with pytest.raises(ConfigError):
        load(environ={"TRIVET__API__DRAIN_MS": text})


@pytest.mark.parametrize(
    "address", ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "example.com:1", "[fe80::1]:1", "128.0.0.1:1"]
)
def test_r36_beyond_loopback_is_refused_and_says_why(address: str) -> None:
    for key, extra in (("api.listen", {}), ("raft.listen", {})):
        assert any(
            p.startswith(f"{key}:") and "no authentication" in p for p in problems({key: address, **extra})
        )
    assert any("no authentication" in p for p in problems({"cluster.members": (f"n1={address}",)}))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.255.0.9:65535", "[::1]:7480", "localhost:80"])
def test_r36_loopback_is_taken(address: str) -> None:
    assert str(from_values({"api.listen": address}).api_listen) == address


@pytest.mark.parametrize("text", ["", "x", "x:", ":1", "x:0", "x:65536", "x:1a", "::1:80", "x:-1", "x:١"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (("n2=127.0.0.1:1", "n3=127.0.0.1:2", "n4=127.0.0.1:3"), "is not among them"),
        (("n1=127.0.0.1:1", "n1=127.0.0.1:2", "n2=127.0.0.1:3"), "there twice"),
        (("n1=127.0.0.1:1", "n2=127.0.0.1:1", "n3=127.0.0.1:3"), "the same address"),
        (("n1=127.0.0.1:1", "n2=127.0.0.1:2"), "use 1, 3 or 5"),
        (("n1=127.0.0.1:1", "127.0.0.1:2", "n3=127.0.0.1:3"), "not id=host:port"),
        (("n1=127.0.0.1:1", "a b=127.0.0.1:2", "n3=127.0.0.1:3"), "only letters"),
        (tuple(f"n{i}=127.0.0.1:{i}" for i in range(1, 10)), "at most 7"),
    ],
)
def test_member_lists(members: tuple[str, ...], expected: str) -> None:
    assert any(expected in problem for problem in problems({"cluster.members": members}))


@pytest.mark.parametrize("node_id", ["", "-a", "a b", "é", "a/b", "a" * 257, ".a"])
def test_node_ids(node_id: str) -> None:
    assert any(problem.startswith("node.id:") for problem in problems({"node.id": node_id}))
    assert from_values({"node.id": "a" * 256}).node.id == "a" * 256


@pytest.mark.parametrize(
    "url", ["ftp://x", "x", "http://", "http://x/path", "http://x?q", "http://x:99999", "http://u@x"]
)
def test_advertise_url(url: str) -> None:
    assert any(problem.startswith("api.advertise_url:") for problem in problems({"api.advertise_url": url}))
    assert from_values({"api.advertise_url": "https://q.example:8443/"}).api_url == "https://q.example:8443"


def test_timing_rules_name_both_numbers() -> None:
    assert any("500" in p and "400" in p for p in problems({"raft.election_max_ms": 400}))
    assert any("200" in p and "500" in p for p in problems({"raft.heartbeat_ms": 200}))
    assert problems({"storage.disk_floor_bytes": 1 << 28})


def test_the_reference_names_every_setting_once() -> None:
    rows = reference()
    assert len({row.key for row in rows}) == len(rows) == len(module._TABLE)
    assert all(row.help and row.type for row in rows)


def test_wrong_texts_for_booleans() -> None:
    with pytest.raises(ConfigError, match="not true or false"):
        load(overrides=["cluster.bootstrap=maybe"])


def test_from_values_refuses_unknown_keys() -> None:
    assert "did you mean" in problems({"node.iid": "x"})[0]
