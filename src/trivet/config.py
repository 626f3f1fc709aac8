"""The configuration: one table of typed settings that drives the file, the environment, the flags and the docs.

Sources, weakest first: defaults < TOML file < environment (`TRIVET__SECTION__KEY`) < flags
(`section.key=value`). All problems are reported at once, each with its key and its limit. Nothing here
reads the environment by itself.

R36: until authentication exists, addresses beyond loopback are refused.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints
from urllib.parse import urlsplit

from trivet.limits import NAME_BYTES_MAX
from trivet.units import GIB, MIB, MINUTE_MS, SECOND_MS

ENV_PREFIX = "TRIVET__"
MEMBERS_MAX = 7
_ID_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


class ConfigError(ValueError):
    """The configuration cannot be used. `problems`: every fault found, one plain sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class Address(NamedTuple):
    """A host (name or IP literal, without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True for `localhost`, 127.0.0.0/8 and ::1. Other names are not: they may resolve to anything."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Setting(NamedTuple):
    """A line of the configuration reference."""

    key: str  # section.key
    type: str  # text | integer | boolean | list of text
    default: Any
    range: str  # "1 … 65535", "a | b", or ""
    help: str


def _setting(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": help, "low": None, "high": None, "choices": choices})


def _number(default: int, low: int, high: int, help: str) -> Any:
    return field(default=default, metadata={"help": help, "low": low, "high": high, "choices": None})


@dataclass(frozen=True, slots=True)
class NodeSection:
    id: str = _setting("n1", "Name of this node, unique in its cluster; never changes.")
    data_dir: str = _setting("trivet-data", "Directory of the log and the snapshots (made with mode 0700).")


@dataclass(frozen=True, slots=True)
class ClusterSection:
    members: tuple[str, ...] = _setting(
        (), 'All members as "id=host:port" Raft addresses, this node included. Empty: a single node.'
    )
    bootstrap: bool = _setting(
        False, "Let the cluster be born when all members' directories are empty. A single node needs no wish."
    )


@dataclass(frozen=True, slots=True)
class ApiSection:
    listen: str = _setting("127.0.0.1:7480", "Address of the HTTP API. Loopback only for now (R36).")
    advertise_url: str = _setting(
        "", "URL by which clients reach this node; empty: http:// and `api.listen`."
    )
    follower_mode: str = _setting("redirect", "What a follower does with a write.", ("redirect", "forward"))
    election_wait_ms: int = _number(5 * SECOND_MS, 0, MINUTE_MS, "How long a request waits for a leader.")
    auto_create_queues: bool = _setting(True, "Whether the first enqueue makes a queue that does not exist.")
    drain_ms: int = _number(10 * SECOND_MS, 0, 10 * MINUTE_MS, "How long a stop may take.")


@dataclass(frozen=True, slots=True)
class RaftSection:
    listen: str = _setting("", "Address for peers; empty: this node's own entry of `cluster.members`.")
    heartbeat_ms: int = _number(100, 10, 5 * SECOND_MS, "Pause between two heartbeats of the leader.")
    election_min_ms: int = _number(500, 50, MINUTE_MS, "Silence after which a follower may stand.")
    election_max_ms: int = _number(1000, 60, 2 * MINUTE_MS, "Silence after which it surely stands.")


@dataclass(frozen=True, slots=True)
class StorageSection:
    segment_bytes: int = _number(64 * MIB, MIB, 4 * GIB, "Size of a log segment, reserved at once.")
    snapshot_entries: int = _number(100_000, 100, 100_000_000, "Log entries between snapshots …")
    snapshot_bytes: int = _number(256 * MIB, MIB, 1024 * GIB, "… or bytes of log, whichever comes first.")
    disk_reserve_bytes: int = _number(
        256 * MIB,
        16 * MIB,
        1024 * GIB,
        "With less free space than this plus twice the last snapshot, enqueues get 507 `disk_full` (R10).",
    )
    disk_floor_bytes: int = _number(64 * MIB, MIB, 1024 * GIB, "With less free space nothing is proposed.")


@dataclass(frozen=True, slots=True)
class MemorySection:
    limit_bytes: int = _number(
        0,
        0,
        16 * 1024 * GIB,
        "Memory this node may use; above 80 % of it enqueues get 429 `memory_pressure`. "
        "0: the cgroup's limit, else the machine's memory.",
    )


@dataclass(frozen=True, slots=True)
class LogSection:
    level: str = _setting("info", "Least serious event logged.", ("debug", "info", "warning", "error"))
    format: str = _setting(
        "auto", "json: a line each; human: for reading; auto: human on a terminal.", ("auto", "json", "human")
    )


@dataclass(frozen=True, slots=True)
class Config:
    """A node's whole configuration. Build it with `load` or `from_values`, which check it."""

    node: NodeSection = NodeSection()
    cluster: ClusterSection = ClusterSection()
    api: ApiSection = ApiSection()
    raft: RaftSection = RaftSection()
    storage: StorageSection = StorageSection()
    memory: MemorySection = MemorySection()
    log: LogSection = LogSection()

    @property
    def members(self) -> dict[str, Address]:
        """Raft addresses by node id, this node included; of a single node: empty."""
        return dict(parse_member(text) for text in self.cluster.members)

    @property
    def api_listen(self) -> Address:
        return parse_address(self.api.listen)

    @property
    def raft_listen(self) -> Address | None:
        """Where peers connect to; None on a single node."""
        if not self.cluster.members:
            return None
        return parse_address(self.raft.listen) if self.raft.listen else self.members[self.node.id]

    @property
    def api_url(self) -> str:
        """The base URL that clients are sent to, without a trailing slash."""
        return (self.api.advertise_url or f"http://{self.api_listen}").rstrip("/")


_TYPE_NAMES = {str: "text", int: "integer", bool: "boolean", tuple[str, ...]: "list of text"}


class _Field(NamedTuple):
    section: str
    name: str
    type: Any
    default: Any
    help: str
    low: int | None
    high: int | None
    choices: tuple[str, ...] | None

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def range(self) -> str:
        if self.choices:
            return " | ".join(self.choices)
        if self.low is not None:
            return f"{self.low} … {self.high}"
        return ""


def _sections() -> dict[str, Any]:
    hints = get_type_hints(Config)
    return {f.name: hints[f.name] for f in fields(Config)}


def _fields() -> Iterator[_Field]:
    for section, cls in _sections().items():
        hints = get_type_hints(cls)
        for f in fields(cls):
            m = f.metadata
            yield _Field(
                section, f.name, hints[f.name], f.default, m["help"], m["low"], m["high"], m["choices"]
            )


_TABLE: dict[str, _Field] = {f.key: f for f in _fields()}


def reference() -> list[Setting]:
    """Every setting in the order of the table: for docs/reference/configuration.md and the CLI's help."""
    return [Setting(f.key, _TYPE_NAMES[f.type], f.default, f.range, f.help) for f in _TABLE.values()]


# --- reading ------------------------------------------------------------------------------------------


def parse_address(text: str) -> Address:
    """`host:port` or `[v6]:port`. Raises `ValueError` with a plain reason."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f'"{text}" is not host:port')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f'"{text}": write an IPv6 address in brackets')
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f'"{text}": the port is not in 1 … 65535')
    return Address(host, int(port))


def parse_member(text: str) -> tuple[str, Address]:
    """`id=host:port`. Raises `ValueError` with a plain reason."""
    node_id, equals, address = text.partition("=")
    if not equals or not node_id:
        raise ValueError(f'"{text}" is not id=host:port')
    return node_id, parse_address(address)


def load(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> Config:
    """The checked configuration from a file, an environment and `section.key=value` texts.

    Raises `ConfigError` with every problem found; a file that cannot be read is one.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    if path is not None:
        values.update(_from_file(Path(path), problems))
    for source, key, text in _texts(environ or {}, overrides, problems):
        values[key] = _parse_text(_TABLE[key], text, source, problems)
    return _build(values, problems)


def from_values(values: Mapping[str, Any]) -> Config:
    """The checked configuration from typed values by key, as in `{"node.id": "n1"}`. Raises `ConfigError`."""
    problems: list[str] = []
    checked = {k: v for k, v in values.items() if _known(k, "value", problems)}
    return _build(checked, problems)


def _from_file(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return {}
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path}: not TOML: {error}")
        return {}
    values: dict[str, Any] = {}
    for section, content in document.items():
        if not isinstance(content, dict):
            _unknown(section, [*_sections(), *_TABLE], f"{path}", problems)
            continue
        if section not in _sections():
            _unknown(f"[{section}]", [f"[{name}]" for name in _sections()], f"{path}", problems)
            continue
        for name, value in content.items():
            key = f"{section}.{name}"
            if _known(key, str(path), problems):
                values[key] = tuple(value) if isinstance(value, list) else value
    return values


def _texts(
    environ: Mapping[str, str], overrides: Sequence[str], problems: list[str]
) -> Iterator[tuple[str, str, str]]:
    """(source, key, text) of the environment, then of the flags."""
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX):
            key = name[len(ENV_PREFIX) :].lower().replace("__", ".", 1)
            if _known(key, name, problems, env=True):
                yield name, key, environ[name]
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            problems.append(f'--set {text}: not "section.key=value"')
        elif _known(key, f"--set {key}", problems):
            yield f"--set {key}", key, value


def _known(key: str, source: str, problems: list[str], *, env: bool = False) -> bool:
    if key in _TABLE:
        return True
    names = {ENV_PREFIX + k.upper().replace(".", "__"): k for k in _TABLE} if env else {k: k for k in _TABLE}
    if env:
        _unknown(source, list(names), "environment", problems)
    else:
        _unknown(key, list(names), source, problems)
    return False


def _unknown(name: str, candidates: list[str], source: str, problems: list[str]) -> None:
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    problems.append(f'{source}: unknown setting "{name}"{hint}')


_BOOLEANS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


def _parse_text(f: _Field, text: str, source: str, problems: list[str]) -> Any:
    if f.type is bool:
        if text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        problems.append(f'{source}: "{text}" is not true or false')
    elif f.type is int:
        plain = text.replace("_", "")
        if plain.isascii() and plain.isdigit() and len(plain) <= 20:
            return int(plain)
        problems.append(f'{source}: "{text}" is not a whole number')
    elif f.type is str:
        return text
    else:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return f.default


# --- checking -----------------------------------------------------------------------------------------


def _build(values: Mapping[str, Any], problems: list[str]) -> Config:
    sections: dict[str, dict[str, Any]] = {name: {} for name in _sections()}
    for key, value in values.items():
        f = _TABLE[key]
        problem = _problem_of(f, value)
        if problem:
            problems.append(problem)
        else:
            sections[f.section][f.name] = value
    config = Config(**{name: cls(**sections[name]) for name, cls in _sections().items()})
    problems.extend(_problems(config))
    if problems:
        raise ConfigError(problems)
    return config


def _problem_of(f: _Field, value: Any) -> str | None:
    """What is wrong with one value by itself."""
    if f.type is int and (isinstance(value, bool) or not isinstance(value, int)):
        return f"{f.key}: a whole number is needed, not {value!r}"
    if f.type is bool and not isinstance(value, bool):
        return f"{f.key}: true or false is needed, not {value!r}"
    if f.type is str and not isinstance(value, str):
        return f"{f.key}: a text is needed, not {value!r}"
    if f.type == tuple[str, ...] and not (
        isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    ):
        return f"{f.key}: a list of texts is needed, not {value!r}"
    if f.choices is not None and value not in f.choices:
        return f'{f.key}: "{value}" is not one of {", ".join(f.choices)}'
    if f.low is not None and f.high is not None and not f.low <= value <= f.high:
        return f"{f.key}: {value} is not in {f.low} … {f.high}"
    return None


def _problems(config: Config) -> Iterator[str]:
    """What is wrong between values, and with texts that have a form of their own."""
    problem = id_problem(config.node.id)
    if problem:
        yield f"node.id: {problem}"
    if not config.node.data_dir:
        yield "node.data_dir: is empty"
    yield from _member_problems(config)
    yield from _bind_problems("api.listen", config.api.listen)
    if config.raft.listen:
        yield from _bind_problems("raft.listen", config.raft.listen)
    yield from _url_problems(config.api.advertise_url)
    yield from _timing_problems(config)
    if config.storage.disk_floor_bytes >= config.storage.disk_reserve_bytes:
        yield (
            f"storage.disk_floor_bytes: {config.storage.disk_floor_bytes} is not below "
            f"storage.disk_reserve_bytes ({config.storage.disk_reserve_bytes})"
        )


def id_problem(node_id: str) -> str | None:
    """Why this is no node id, or None."""
    if not node_id or len(node_id.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX:
        return f"must have 1 … {NAME_BYTES_MAX} bytes"
    if not set(node_id) <= _ID_CHARS or not node_id[0].isalnum():
        return f'"{node_id}": only letters, digits, ".", "_" and "-", the first a letter or digit'
    return None


def _member_problems(config: Config) -> Iterator[str]:
    seen_ids: dict[str, str] = {}
    seen_addresses: dict[Address, str] = {}
    for text in config.cluster.members:
        try:
            node_id, address = parse_member(text)
        except ValueError as error:
            yield f"cluster.members: {error}"
            continue
        problem = id_problem(node_id)
        if problem:
            yield f"cluster.members: {problem}"
        if node_id in seen_ids:
            yield f'cluster.members: "{node_id}" is there twice'
        if address in seen_addresses:
            yield f'cluster.members: "{node_id}" and "{seen_addresses[address]}" have the same address {address}'
        seen_ids[node_id] = text
        seen_addresses[address] = node_id
    count = len(config.cluster.members)
    if count > MEMBERS_MAX:
        yield f"cluster.members: {count} members, at most {MEMBERS_MAX}"
    if count and count % 2 == 0:
        yield f"cluster.members: {count} members survive no more losses than {count - 1}: use 1, 3 or 5"
    if count and config.node.id not in seen_ids:
        yield f'cluster.members: this node, "{config.node.id}" (node.id), is not among them'
    own = seen_ids.get(config.node.id)
    if own is not None and not config.raft.listen:
        yield from _bind_problems("cluster.members", own.partition("=")[2])


def _bind_problems(key: str, text: str) -> Iterator[str]:
    try:
        address = parse_address(text)
    except ValueError as error:
        yield f"{key}: {error}"
        return
    if not address.is_loopback:
        yield (
            f"{key}: {text} is beyond loopback (127.0.0.0/8, ::1, localhost): this version has no "
            "authentication, so whoever reached the port could read and change every message"
        )


def _url_problems(url: str) -> Iterator[str]:
    if not url:
        return
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        parts, good = urlsplit(""), False
    if not good:
        yield f'api.advertise_url: "{url}" is not http://host:port'
    elif parts.query or parts.fragment or parts.path not in ("", "/") or parts.username:
        yield f'api.advertise_url: "{url}" has more than scheme, host and port'


def _timing_problems(config: Config) -> Iterator[str]:
    raft = config.raft
    if raft.election_min_ms >= raft.election_max_ms:
        yield (
            f"raft.election_min_ms: {raft.election_min_ms} is not below raft.election_max_ms "
            f"({raft.election_max_ms})"
        )
    if raft.heartbeat_ms * 3 > raft.election_min_ms:
        yield (
            f"raft.heartbeat_ms: {raft.heartbeat_ms} is more than a third of raft.election_min_ms "
            f"({raft.election_min_ms}): one lost heartbeat would start an election"
        )
