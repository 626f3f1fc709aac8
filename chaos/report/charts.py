"""Pictures of a run as inline SVG. They stretch to the width there is; words stand beside them in HTML, so
that they keep their size on a telephone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from chaos.report.data import Calls, Run, Stretch, Struck, end_of

WIDE = 1000.0
TICKS = 6
TERM_SHARE, TERM_SHARE_NARROW = 0.05, 0.16  # a term is written into a stretch that is at least so wide
ROLE_COLOURS = {"down": "none", "recovering": "var(--hurt)", "leader": "var(--leader)"}


def svg(height: int, inner: Iterable[str], label: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDE:g} {height}" height="{height}" '
        f'preserveAspectRatio="none">{"".join(inner)}</svg>'
    )


def rect(from_x: float, to_x: float, y: float, height: float, fill: str, title: str = "") -> str:
    wide = max(to_x - from_x, 1.2)  # what was short must still be seen
    told = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{from_x:.1f}" y="{y:g}" width="{wide:.1f}" height="{height:g}" fill="{fill}">{told}</rect>'
    )


class Axis:
    """Seconds of the run to places in a picture."""

    def __init__(self, length_s: float) -> None:
        self.length_s = max(length_s, 0.001)

    def x(self, at_s: float) -> float:
        return min(max(at_s / self.length_s, 0.0), 1.0) * WIDE

    def ticks(self, count: int = TICKS) -> str:
        """The line of times under a picture."""
        spans = []
        for n in range(count + 1):
            share = n / count
            kind = ' class="mid"' if n % 3 and count > 3 else ""
            at_s = self.length_s * share
            told = minutes(at_s) if self.length_s >= 10 else f"{at_s:.1f} s"
            spans.append(f'<span{kind} style="left:{share:.1%}">{told}</span>')
        return f'<div class="ticks">{"".join(spans)}</div>'


def clock(at_s: float) -> str:
    """`1:05` of 65 seconds, `4.2 s` below ten seconds."""
    return f"{at_s:.1f} s" if at_s < 10 else minutes(at_s)


def minutes(at_s: float) -> str:
    return f"{int(at_s) // 60}:{int(at_s) % 60:02d}"


def leaders(run: Run, axis: Axis) -> str:
    """One row a node: down, up, leading; the term is written where there is room."""
    rows = []
    for node, stretches in sorted(run.nodes.items()):
        shapes, words = [], []
        for one in stretches:
            fill, title = _stretch(one)
            shapes.append(rect(axis.x(one.from_s), axis.x(one.to_s), 0, 22, fill, title))
            share = (axis.x(one.to_s) - axis.x(one.from_s)) / WIDE
            if one.role == "leader" and share >= TERM_SHARE:
                left = axis.x(one.from_s) / WIDE
                kind = "term" if share >= TERM_SHARE_NARROW else "term mid"
                words.append(
                    f'<span class="{kind}" style="left:{left:.2%};width:{share:.2%}">term {escape(str(one.term))}</span>'
                )
        picture = svg(22, shapes, f"What {node} said of itself")
        rows.append(_row(escape(node), picture + "".join(words)))
    return _strip(rows, axis)


def _stretch(one: Stretch) -> tuple[str, str]:
    fill = ROLE_COLOURS.get(one.role, "var(--up)")
    if one.role == "leader" and isinstance(one.term, int) and one.term % 2:
        fill = "var(--leader2)"  # a new term is another shade
    told = one.role if one.term is None else f"{one.role}, term {one.term}"
    return fill, f"{told}, {clock(one.from_s)} to {clock(one.to_s)}"


def fault_rows(run: Run, axis: Axis) -> str:
    """One row a kind of fault: dark until it was healed, light until the cluster was whole again."""
    rows = []
    for kind in sorted({one.fault for one in run.faults}):
        of_kind = [one for one in run.faults if one.fault == kind]
        shapes = []
        for one in of_kind:
            title = f"{one.n}: {kind}" + (f", not fired: {one.not_fired}" if one.not_fired else "")
            healed_s = one.healed_s if one.healed_s is not None else end_of(one, run)
            shapes.append(rect(axis.x(healed_s), axis.x(end_of(one, run)), 0, 14, "var(--fault)", title))
            colour = "var(--warn)" if one.not_fired else "var(--bad)"
            shapes.append(rect(axis.x(one.fire_s), axis.x(healed_s), 0, 14, colour, title))
        rows.append(_row(f"{escape(kind)} × {len(of_kind)}", svg(14, shapes, f"When {kind} was done")))
    return _strip(rows, axis)


def _row(name: str, picture: str) -> str:
    return f'<div class="name" title="{name}">{name}</div><div class="plot">{picture}</div>'


def _strip(rows: Sequence[str], axis: Axis) -> str:
    return f'<div class="strip">{"".join(rows)}<div></div>{axis.ticks()}</div>'


def bands(faults: Iterable[Struck], run: Run, axis: Axis, height: int) -> list[str]:
    """The faults as a background."""
    return [
        rect(axis.x(one.fire_s), axis.x(end_of(one, run)), 0, height, "var(--fault)", f"{one.n}: {one.fault}")
        for one in faults
    ]


def throughput(calls: Calls, run: Run, axis: Axis) -> tuple[str, float]:
    """Calls a second that were ok, as an area; on it what failed and what stayed unknown. Also answers
    the scale's end."""
    height, last = 64, math.ceil(run.length_s / run.bin_s)
    top = max((sum(one.ended.values()) for one in calls.bins.values()), default=0) / run.bin_s or 1.0
    points, marks = ["0,64"], []
    for n in range(last):
        found = calls.bins.get(n)
        ok = found.ended["ok"] / run.bin_s if found else 0.0
        left, right = axis.x(n * run.bin_s), axis.x((n + 1) * run.bin_s)
        y = height * (1 - ok / top)
        points += [f"{left:.1f},{y:.1f}", f"{right:.1f},{y:.1f}"]
        for kind, colour in (("fail", "var(--hurt)"), ("info", "var(--bad)")):
            count = found.ended[kind] if found else 0
            if count:
                tall = max(height * count / run.bin_s / top, 2.0)
                y = max(y - tall, 0.0)
                marks.append(rect(left, right, round(y, 1), round(tall, 1), colour, f"{count} {kind}"))
    points.append(f"{WIDE:g},64")
    area = f'<polygon points="{" ".join(points)}" fill="var(--ok-area)" stroke="none"/>'
    return svg(height, [*bands(run.faults, run, axis, height), area, *marks], "Calls a second"), top


def latency(calls: Calls, run: Run, axis: Axis) -> tuple[str, float, float]:
    """The median and the 99th percentile on a logarithmic scale; also answers the scale's ends in seconds."""
    height = 64
    lines_ = {share: _quantiles(calls, share) for share in (0.5, 0.99)}
    values = [value for points in lines_.values() for _, value in points]
    low, high = min(values, default=0.001), max(values, default=0.001)
    low, high = low / 1.2, high * 1.2

    def y(value: float) -> float:
        return height * (1 - math.log(value / low) / math.log(high / low))

    shapes = bands(run.faults, run, axis, height)
    for share, colour in ((0.99, "var(--second)"), (0.5, "var(--main)")):
        for piece in _joined(lines_[share]):
            points = " ".join(f"{axis.x((n + 0.5) * run.bin_s):.1f},{y(value):.1f}" for n, value in piece)
            if len(piece) == 1:  # a point of its own would not be drawn
                n, value = piece[0]
                points = f"{axis.x(n * run.bin_s):.1f},{y(value):.1f} {axis.x((n + 1) * run.bin_s):.1f},{y(value):.1f}"
            shapes.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6" '
                'vector-effect="non-scaling-stroke"/>'
            )
    return svg(height, shapes, "Latency"), low, high


def _quantiles(calls: Calls, share: float) -> list[tuple[int, float]]:
    found = ((n, one.took.quantile_s(share)) for n, one in sorted(calls.bins.items()))
    return [(n, value) for n, value in found if value is not None]


def _joined(points: list[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    """Pieces without holes: where nothing was answered there is no line."""
    pieces: list[list[tuple[int, float]]] = []
    for point in points:
        if pieces and pieces[-1][-1][0] == point[0] - 1:
            pieces[-1].append(point)
        else:
            pieces.append([point])
    return pieces
