"""Figures as text (ratios first) and as a plot."""

from __future__ import annotations

from html import escape
from pathlib import Path

from bench.compare import Figure

OTHER_CORES_MAX = 0.15
STOLEN_CORES_MAX = 0.06  # 3 % of two cores
COLOURS = {"trivet": "#0b6e4f", "nats-always": "#3b6fb6", "nats-always-c": "#7a9fd0", "rabbit": "#c65d21"}


def is_clean(figure: Figure) -> bool:
    return figure.other_cores <= OTHER_CORES_MAX and figure.stolen_cores <= STOLEN_CORES_MAX


def medians(figures: list[Figure]) -> dict[tuple[str, str], tuple[Figure, bool]]:
    """(test, broker) → the run with the median rate, at a fixed rate that with the median time of a confirm; of the
    clean ones if there are any; and whether it is clean."""
    found: dict[tuple[str, str], tuple[Figure, bool]] = {}
    for key in dict.fromkeys((one.test, one.broker) for one in figures):
        runs = [one for one in figures if (one.test, one.broker) == key]
        clean = [one for one in runs if is_clean(one)]
        chosen = sorted(clean or runs, key=_middle_by)
        found[key] = chosen[(len(chosen) - 1) // 2], bool(clean)
    return found


def _middle_by(one: Figure) -> float:
    return one.confirm_ms[0] if one.test == "200 a second" and one.confirm_ms else one.per_second


def table(figures: list[Figure], durability: dict[str, str]) -> str:
    found = medians(figures)
    lines = [
        "ratios of medians (of an even number the lower): Trivet's rate / theirs (more is better), Trivet's server CPU / theirs (less is better)"
    ]
    for (test, broker), (figure, clean) in found.items():
        ours = found.get((test, "trivet"))
        if ours is None or broker == "trivet":
            continue
        mark = "" if clean and ours[1] else "   (disturbed)"
        if test == "200 a second":
            lines.append(f"  {test:<14} vs {broker:<14} {_latency(ours[0], figure)}{mark}")
        else:
            lines.append(
                f"  {test:<14} vs {broker:<14} rate × {ours[0].per_second / figure.per_second:5.2f}"
                f"   CPU × {ours[0].server_us / figure.server_us:5.2f}{mark}"
            )
    lines.append("")
    lines.append(
        f"{'test':<14} {'broker':<14} {'msg/s':>9} {'servers µs':>11} {'clients µs':>11}  confirm p50/p99 ms  delivered"
    )
    for (test, broker), (figure, clean) in found.items():
        spread = [one.per_second for one in figures if (one.test, one.broker) == (test, broker)]
        lines.append(
            f"{test:<14} {broker:<14} {figure.per_second:>9,.0f} {figure.server_us:>11} {figure.client_us:>11}  "
            f"{_pair(figure.confirm_ms):<19} {_pair(figure.delivered_ms):<13}"
            f" ({min(spread):,.0f}–{max(spread):,.0f}{'' if clean else ', disturbed'})"
        )
    lines += ["", *(f"{name}: {words}" for name, words in durability.items())]
    return "\n".join(lines)


def _pair(values: tuple[float, float] | None) -> str:
    return "" if values is None else f"{values[0]:.2f} / {values[1]:.2f}"


def _latency(ours: Figure, theirs: Figure) -> str:
    return f"confirm {_pair(ours.confirm_ms)} against {_pair(theirs.confirm_ms)} ms, delivered {_pair(ours.delivered_ms)} against {_pair(theirs.delivered_ms)} ms"


def write(figures: list[Figure], path: Path) -> None:
    """Bars of server CPU a message, with one dot a run: an SVG without anything from elsewhere."""
    found = medians([one for one in figures if one.test != "200 a second"])
    most = max((figure.server_us for figure, _ in found.values()), default=1)
    rows, y = [], 40
    for test in dict.fromkeys(test for test, _ in found):
        rows.append(f'<text x="10" y="{y}" font-weight="bold">{escape(test)}</text>')
        y += 8
        for (its, broker), (figure, _) in found.items():
            if its != test:
                continue
            width = figure.server_us / most * 420
            rows.append(
                f'<rect x="110" y="{y}" width="{width:.0f}" height="18" fill="{COLOURS.get(broker, "#777")}"/>'
                f'<text x="10" y="{y + 14}">{escape(broker)}</text>'
                f'<text x="{116 + width:.0f}" y="{y + 14}">{figure.server_us} µs · {figure.per_second:,.0f}/s</text>'
            )
            rows += [
                f'<circle cx="{110 + one.server_us / most * 420:.0f}" cy="{y + 9}" r="3" fill="#fff" stroke="#222"/>'
                for one in figures
                if (one.test, one.broker) == (its, broker)
            ]
            y += 24
        y += 24
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {y}" font-family="sans-serif" font-size="13">'
        f'<rect width="720" height="{y}" fill="#fff"/>'
        f'<text x="10" y="18">server CPU per message, three nodes together (median bar, every run a dot)</text>{"".join(rows)}</svg>'
    )
