"""The page of a run: one HTML file without scripts and without anything from elsewhere.

Everything that comes from the files of the run goes through `escape`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from html import escape
from typing import Any

from chaos.history import Operation
from chaos.report import charts
from chaos.report.data import Calls, Run, Struck
from chaos.report.numbers import overall, seconds, verdict_of
from chaos.report.style import CSS

ARGS_SHOWN = 4000  # characters of an operation's arguments and result
WORDS = {"clean": "clean", "violation": "violation", "invalid": "invalid: it proves nothing"}


def render(run: Run) -> str:
    axis = charts.Axis(run.length_s)
    title = f"Drill {run.plan.get('seed', '')}".strip()
    parts = [
        _header(run, title),
        _tiles(run),
        _violations(run),
        _timeline(run, axis),
        _panels(run, axis),
        _operations(run),
        _kinds(run),
        _faults(run),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)} · Trivet</title><style>{CSS}</style></head><body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


# --- the head -----------------------------------------------------------------------------------------


def _header(run: Run, title: str) -> str:
    word = verdict_of(run)
    told = WORDS.get(word, word)
    nodes = run.plan.get("nodes") or len(run.nodes)
    workloads = ", ".join(map(str, run.plan.get("workloads", ())))
    replay = run.verdict.get("replay") or f"python -m chaos replay {run.directory}"
    text = f"{nodes} nodes · {charts.clock(run.length_s)} · seed {run.plan.get('seed', 'unknown')}"
    if run.missing:
        text += f" · not in the directory: {', '.join(run.missing)}"
    return (
        f'<header><h1>{escape(title)}</h1><span class="badge {escape(word)}">{escape(told)}</span></header>'
        f'<p class="soft">{escape(text)}</p>'
        + (f'<p class="soft">Workloads: {escape(workloads)}</p>' if workloads else "")
        + f'<div class="replay"><span class="soft">Replay</span><code>{escape(str(replay))}</code></div>'
    )


def _tiles(run: Run) -> str:
    told = overall(run)
    tiles = [
        ("Messages sent", _count(told["sent"]), ""),
        *(
            (name.capitalize(), _count(told[name]), "bad" if told[name] else "")
            for name in ("lost", "doubled")
        ),
        ("Calls", f"{told['calls']:,}", ""),
        (
            "Outcome unknown",
            f"{told['info']:,} <small>calls, {told['unknown_attempts']:,} attempts</small>",
            "",
        ),
        ("Real executions", f"{told['executions']:,}", ""),
        ("Faults fired", f"{told['fired']} <small>of {told['planned']}</small>", ""),
        ("Failover p50", seconds(told["failover_s"]["p50"]), ""),
        ("Failover p99", seconds(told["failover_s"]["p99"]), ""),
        ("Longest gap without a write", seconds(told["longest_gap_s"]), ""),
    ]
    inner = "".join(
        f'<div class="{kind}"><dt>{name}</dt><dd>{value}</dd></div>' for name, value, kind in tiles
    )
    return f'<dl class="tiles">{inner}</dl>'


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _violations(run: Run) -> str:
    found = run.verdict.get("violations", [])
    problems = run.verdict.get("problems", [])
    cards = []
    for one in found:
        head = f"{one.get('law', '')} {one.get('judge', '')}".strip()
        cards.append(
            f'<div class="violation-card"><h3>{escape(head)}</h3><p>{escape(str(one.get("text", "")))}</p>'
            f"{''.join(_operation(run, op) for op in one.get('ops', ()))}</div>"
        )
    parts = []
    if cards:
        parts.append(f'<h2 class="bad">Violations ({len(cards)})</h2>{"".join(cards)}')
    if problems:
        items = "".join(f"<li>{escape(str(one))}</li>" for one in problems)
        parts.append(f'<h2 class="warn">What makes it prove less, or nothing</h2><ul>{items}</ul>')
    return "".join(parts)


def _operation(run: Run, op: int) -> str:
    found = run.shown.get(op)
    if found is None:
        return f"<p>Operation {escape(str(op))} (see history.jsonl)</p>"
    took = "never returned" if found.ret_ns is None else f"{(found.ret_ns - found.inv_ns) / 1e9:.3f} s"
    head = (
        f"{op} {found.f} by {found.proc}: {found.type}{f' ({found.code})' if found.code else ''}, "
        f"began at {run.seconds(found.inv_ns):.3f} s, {took}"
    )
    return f"<details><summary>{escape(head)}</summary><pre>{escape(_told(found))}</pre></details>"


def _told(call: Operation) -> str:
    shown = {
        "args": call.args,
        **{name: getattr(call, name) for name in ("index", "seq", "term", "asof", "node", "result", "error")},
    }
    text = json.dumps({name: value for name, value in shown.items() if value is not None}, indent=1)
    return text if len(text) <= ARGS_SHOWN else text[:ARGS_SHOWN] + "\n… (the rest is in history.jsonl)"


# --- over time ----------------------------------------------------------------------------------------


def _timeline(run: Run, axis: charts.Axis) -> str:
    parts = ["<h2>Over time</h2>"]
    if run.nodes:
        parts.append("<h3>What each node said of itself</h3>")
        key = [("--leader", "leading (each term another shade)"), ("--up", "up"), ("--hurt", "recovering")]
        parts.append(_key(key, "An empty stretch: it did not answer."))
        parts.append(charts.leaders(run, axis))
    if run.faults:
        parts.append("<h3>Faults</h3>")
        parts.append(_key([("--bad", "until healed"), ("--fault", "until the cluster was whole again")]))
        parts.append(charts.fault_rows(run, axis))
    return "".join(parts) if len(parts) > 1 else ""


def _key(pairs: Iterable[tuple[str, str]], after: str = "") -> str:
    items = "".join(f'<span><i style="background:var({name})"></i>{text}</span>' for name, text in pairs)
    return f'<div class="key">{items}<span>{after}</span></div>'


def _panels(run: Run, axis: charts.Axis) -> str:
    if not run.calls:
        return ""
    panels = [
        _panel(run, name, calls, axis)
        for name, calls in sorted(run.calls.items(), key=lambda one: (-sum(one[1].ended.values()), one[0]))
    ]
    key = [
        *(("--ok-area", "ok"), ("--hurt", "refused or failed"), ("--bad", "outcome unknown")),
        *(("--main", "p50"), ("--second", "p99"), ("--fault", "a fault")),
    ]
    return (
        f"<h2>Throughput and latency by operation</h2>{_key(key)}"
        f'<p class="soft">Latency of calls that were ok, retries and redirects included, on a logarithmic scale, '
        "within 5 %. A lease's includes its wait; leases that waited for nothing are left out.</p>"
        f'<div class="panels">{"".join(panels)}</div>'
    )


def _panel(run: Run, name: str, calls: Calls, axis: charts.Axis) -> str:
    rate, top = charts.throughput(calls, run, axis)
    took, low, high = charts.latency(calls, run, axis)
    p50, p99 = (seconds(calls.took.quantile_s(share)) for share in (0.5, 0.99))
    scale = f"<span>scale {seconds(low)} … {seconds(high)}</span>" if calls.took.count else ""
    return (
        f'<div class="panel"><div class="head"><h3>{escape(name)}</h3>'
        f'<span class="soft">{sum(calls.ended.values()):,} calls</span></div>'
        f'<div class="side"><span>calls a second</span><span>0 … {top:.0f}</span></div>'
        f'<div class="plot">{rate}</div>'
        f'<div class="side"><span>p50 {p50} · p99 {p99}</span>{scale}</div>'
        f'<div class="plot">{took}{axis.ticks(3)}</div></div>'
    )


# --- tables -------------------------------------------------------------------------------------------


def _table(heads: str, rows: Iterable[list[str]], tall: bool = False) -> str:
    """`heads`: names with `|` between, those that begin with `>` are numbers. Cells are HTML already."""
    names = heads.split("|")
    kinds = [' class="r"' if name.startswith(">") else "" for name in names]
    head = "".join(f"<th{kind}>{name.lstrip('>')}</th>" for name, kind in zip(names, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="{"tall" if tall else "scroll"}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _operations(run: Run) -> str:
    rows = []
    for name, calls in sorted(run.calls.items()):
        codes = ", ".join(f"{escape(code)} × {count:,}" for code, count in calls.codes.most_common(6))
        rows.append(
            [
                f"<code>{escape(name)}</code>",
                *(f"{calls.ended[kind]:,}" for kind in ("ok", "fail", "info")),
                f"{calls.attempts:,}",
                f"{calls.unknown_attempts:,}",
                f"{calls.repeated:,}",
                *(seconds(calls.took.quantile_s(share)) for share in (0.5, 0.99)),
                seconds(calls.took.longest_s if calls.took.count else None),
                f'<span class="soft codes">{codes}</span>',
            ]
        )
    heads = "operation|>ok|>failed|>unknown|>attempts|>attempts unknown|>repeated answers|>p50|>p99|>longest|codes"
    return "<h2>Operations</h2>" + _table(heads, rows) if rows else ""


def _kinds(run: Run) -> str:
    by_kind: dict[str, list[Struck]] = defaultdict(list)
    for one in run.faults:
        by_kind[one.fault].append(one)
    rows = []
    for kind, found in sorted(by_kind.items()):
        missed = sum(one.not_fired is not None for one in found)
        gaps = [one.gap_s for one in found if one.gap_s is not None]
        back = [one.ready_s for one in found if one.ready_s is not None]
        rows.append(
            [
                escape(kind),
                str(len(found) - missed),
                f'<span class="warn">{missed}</span>' if missed else "0",
                seconds(_middle(gaps)),
                seconds(max(gaps, default=None)),
                seconds(max(back, default=None)),
            ]
        )
    heads = (
        "fault|>fired|>not fired|>longest gap without an acknowledged write, median|>at most"
        "|>all nodes ready after the heal, at most"
    )
    return "<h2>Faults by kind</h2>" + _table(heads, rows) if rows else ""


def _middle(values: list[float]) -> float | None:
    return sorted(values)[(len(values) - 1) // 2] if values else None


def _faults(run: Run) -> str:
    rows = [_fault(one) for one in run.faults]
    heads = ">n|>at|fault|parameters|leader before|evidence|>held|>failover|>ready again|>longest gap"
    if not rows:
        return ""
    return "<h2>Faults and their evidence</h2>" + _table(heads, rows, tall=len(rows) > 20)


def _fault(one: Struck) -> list[str]:
    if one.not_fired is not None:
        evidence = f'<span class="warn">not fired: {escape(one.not_fired)}</span>'
    elif one.evidence is None:
        evidence = '<span class="warn">none</span>'
    else:
        nodes = ", ".join(map(str, one.evidence.get("nodes", ()))) or "seen"
        evidence = f"<details><summary>{escape(nodes)}</summary><pre>{_json(one.evidence)}</pre></details>"
    held = None if one.healed_s is None or one.struck_s is None else one.healed_s - one.struck_s
    return [
        str(one.n),
        charts.clock(one.fire_s),
        escape(one.fault),
        f'<span class="num">{escape(_short(one.parameters))}</span>',
        escape(str(one.leader or "none")),
        evidence,
        seconds(held),
        seconds(one.failover_s),
        seconds(one.ready_s),
        seconds(one.gap_s),
    ]


def _json(value: Any) -> str:
    return escape(json.dumps(value, indent=1))


def _short(parameters: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in parameters.items() if name != "pick")
