"""A flow as a picture: SVG, drawn in layers after Sugiyama, Tagawa and Toda (1981): the longest way to a step gives its
layer, the middle of its neighbours its place in it; edges that span layers get a place in each."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from bot.flows.format import (
    END,
    PERSON_STEP,
    Action,
    Article,
    Choose,
    Collect,
    EndStep,
    Flow,
    Guide,
    HandOff,
    If,
    Say,
    SetSlots,
    Step,
    words,
)

WIDTH, HEIGHT = 196, 48
GAP_X, GAP_Y = 24, 52
WAY = 26
"""Width of an edge's place in a layer."""
LABEL_CHARS = 24
SWEEPS = 4


@dataclass(frozen=True)
class Edge:
    start: str
    end: str
    label: str = ""
    fault: bool = False
    """The way of a failure: no help, wrong answers, a lookup that fails."""


def draw(flow: Flow, lang: str, faulty: Collection[int] = (), names: Mapping[str, str] | None = None) -> str:
    """The SVG. faulty: lines with problems, whose steps are marked. names: words for END, PERSON and the kinds of step,
    in the viewer's language. Classes: node, KIND, bad, edge, fault, label."""
    names = names or {}
    edges = edges_of(flow, lang)
    nodes = [*flow.steps, *(end for end in (END, PERSON_STEP) if any(edge.end == end for edge in edges))]
    layer = _layers(nodes, edges)
    rows, chains = _rows(nodes, edges, layer)
    place = _places(rows, nodes)
    width = max((x + w / 2 for x, _, w in place.values()), default=0) + 40
    height = (max(layer.values(), default=0) + 1) * (HEIGHT + GAP_Y) + 20
    drawn = [_edge(edge, chain, place) for edge, chain in chains]
    bad = _bad_steps(flow, faulty)
    drawn += [_node(flow, name, place[name], lang, names, name in bad) for name in nodes]
    label = escape(flow.title(lang), quote=True)
    return (
        f'<svg class="flow" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 0 8 4 0 8Z"/></marker></defs>' + "".join(drawn) + "</svg>"
    )


def edges_of(flow: Flow, lang: str) -> list[Edge]:
    """The ways between steps, as they are written; what every step does by itself (a person after wrong answers) is
    left out. Unknown targets too."""
    found: list[Edge] = []
    for name, step in flow.steps.items():
        if isinstance(step, (HandOff, EndStep)):
            continue
        if isinstance(step, Choose):
            found += [Edge(name, each.next, words(each.label, lang)) for each in step.options if each.next]
        ways = step.next if isinstance(step.next, list) else ()
        onward = [Edge(name, way.then, way.if_) if isinstance(way, If) else Edge(name, way.else_) for way in ways]
        if isinstance(step.next, str):
            onward = [Edge(name, step.next)]
        closed = onward and not onward[-1].label
        if not closed and not (isinstance(step, Choose) and all(each.next for each in step.options)):
            onward.append(Edge(name, flow.following[name]))
        found += onward
        told = step.model_fields_set
        if isinstance(step, Guide) and "not_helped" in told:
            found.append(Edge(name, step.not_helped, "✗", fault=True))
        if isinstance(step, (Collect, Choose, Guide)) and "otherwise" in told:
            found.append(Edge(name, step.otherwise, "?", fault=True))
        if isinstance(step, Action) and "failed" in told:
            failed = {"": step.failed} if isinstance(step.failed, str) else step.failed
            found += [Edge(name, end, reason, fault=True) for reason, end in failed.items()]
    known = {*flow.steps, END, PERSON_STEP}
    return list(dict.fromkeys(edge for edge in found if edge.end in known))


def _layers(nodes: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """The longest way from the first step; ways back are not counted. What nothing leads to lies below all."""
    after = defaultdict(list)
    for edge in edges:
        after[edge.start].append(edge.end)
    order: list[str] = []
    state: dict[str, int] = {}
    back: set[tuple[str, str]] = set()

    for first in nodes:
        stack = [(first, iter(after[first]))] if first not in state else []
        if stack:
            state[first] = 1
        while stack:
            name, rest = stack[-1]
            to = next(rest, None)
            if to is None:
                state[name] = 2
                order.append(name)
                stack.pop()
            elif state.get(to) == 1:
                back.add((name, to))
            elif to not in state:
                state[to] = 1
                stack.append((to, iter(after[to])))
    layer = dict.fromkeys(nodes, 0)
    for name in reversed(order):
        for to in after[name]:
            if (name, to) not in back and to != name:
                layer[to] = max(layer[to], layer[name] + 1)
    lowest = max(layer.values(), default=0)
    for end in (END, PERSON_STEP):
        if end in layer:
            layer[end] = max(lowest, 1)
    return layer


Chain = tuple[str, ...]


def _rows(
    nodes: Sequence[str], edges: Sequence[Edge], layer: Mapping[str, int]
) -> tuple[list[list[str]], list[tuple[Edge, Chain]]]:
    """Layers of steps and of places for long edges, ordered so that few cross; each edge with its places."""
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for name in nodes:
        rows[layer[name]].append(name)
    chains: list[tuple[Edge, Chain]] = []
    near: dict[str, list[str]] = defaultdict(list)
    for number, edge in enumerate(edges):
        top, bottom = sorted((layer[edge.start], layer[edge.end]))
        between = [f"·{number}·{level}" for level in range(top + 1, bottom)]
        for level, each in enumerate(between, top + 1):
            rows[level].append(each)
        chain = (edge.start, *(between if layer[edge.start] <= layer[edge.end] else reversed(between)), edge.end)
        chains.append((edge, chain))
        for left, right in itertools.pairwise(chain):
            near[left].append(right)
            near[right].append(left)
    level_of = {name: level for level, row in enumerate(rows) for name in row}
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for level in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            fixed = {name: at for at, name in enumerate(rows[level - 1 if down else level + 1])}

            def middle(name: str, fixed: Mapping[str, int] = fixed, row: list[str] = rows[level]) -> float:
                beside = [fixed[each] for each in near[name] if each in fixed and level_of[each] != level_of[name]]
                return sum(beside) / len(beside) if beside else row.index(name)

            rows[level] = sorted(rows[level], key=middle)
    return rows, chains


def _places(rows: Sequence[Sequence[str]], nodes: Collection[str]) -> dict[str, tuple[float, float, float]]:
    """Name → x of its middle, y of its top, width."""
    known = set(nodes)
    widths = [[WIDTH if name in known else WAY for name in row] for row in rows]
    totals = [sum(row) + GAP_X * (len(row) - 1) for row in widths]
    widest = max(totals, default=0)
    place = {}
    for level, (row, own, total) in enumerate(zip(rows, widths, totals, strict=True)):
        x = 20 + (widest - total) / 2
        for name, width in zip(row, own, strict=True):
            place[name] = (x + width / 2, 12.0 + level * (HEIGHT + GAP_Y), float(width))
            x += width + GAP_X
    return place


def _edge(edge: Edge, chain: Chain, place: Mapping[str, tuple[float, float, float]]) -> str:
    x, y, _ = place[chain[0]]
    end_x, end_y, _ = place[chain[-1]]
    shape = f"edge{' fault' if edge.fault else ''}"
    if chain[0] == chain[-1]:
        path = f"M{x + WIDTH / 2:.0f} {y + 12:.0f}c34 -6 34 30 0 24"
        middle = (x + WIDTH / 2 + 30, y + 20)
    elif end_y <= y:
        # Back: round the side.
        side = max(place[each][0] + place[each][2] / 2 for each in chain) + 14
        path = (
            f"M{x + WIDTH / 2:.0f} {y + HEIGHT / 2:.0f}C{side + 20:.0f} {y + HEIGHT / 2:.0f} "
            f"{side + 20:.0f} {end_y + HEIGHT / 2:.0f} {end_x + WIDTH / 2:.0f} {end_y + HEIGHT / 2:.0f}"
        )
        shape += " back"
        middle = (side, (y + end_y) / 2 + HEIGHT / 2)
    else:
        points = [(x, y + HEIGHT), *((place[each][0], place[each][1] + HEIGHT / 2) for each in chain[1:-1])]
        points.append((end_x, end_y))
        path = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
        for (left, top), (right, bottom) in itertools.pairwise(points):
            half = (top + bottom) / 2
            path += f"C{left:.0f} {half:.0f} {right:.0f} {half:.0f} {right:.0f} {bottom:.0f}"
        # Near its beginning, where ways have not come together yet.
        (left, top), (right, bottom) = points[0], points[1]
        middle = (left + (right - left) * 0.4, top + (bottom - top) * 0.45)
    said = f"<title>{escape(edge.label)}</title>" if edge.label else ""
    label = ""
    if edge.label:
        label = f'<text class="label" x="{middle[0]:.0f}" y="{middle[1]:.0f}">{escape(_short(edge.label))}</text>'
    return f'<g class="{shape}">{said}<path d="{path}" fill="none" marker-end="url(#tip)"/>{label}</g>'


def _node(
    flow: Flow,
    name: str,
    place: tuple[float, float, float],
    lang: str,
    names: Mapping[str, str],
    bad: bool,
) -> str:
    x, y, _ = place
    step = flow.steps.get(name)
    kind = step.kind if step else name.lower()
    head = name if step else names.get(name, name)
    detail = _detail(step, lang) if step else ""
    line = flow.lines.get(name, 0)
    told = f"{names.get(kind, kind)}: {detail}" if detail else names.get(kind, kind)
    inner = f'<text x="{x:.0f}" y="{y + (20 if detail else 29):.0f}" class="name">{escape(_short(head))}</text>'
    if detail:
        inner += f'<text x="{x:.0f}" y="{y + 37:.0f}" class="said">{escape(_short(detail, 30))}</text>'
    return (
        f'<g class="node {kind}{" bad" if bad else ""}"{f" data-line={chr(34)}{line}{chr(34)}" if line else ""}>'
        f"<title>{escape(told)}</title>"
        f'<rect x="{x - WIDTH / 2:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="{8 if step else 24}"/>'
        f"{inner}</g>"
    )


def _detail(step: Step, lang: str) -> str:
    if isinstance(step, Say):
        return words(step.say, lang)
    if isinstance(step, Collect):
        return f"{step.collect} ← {words(step.ask, lang)}"
    if isinstance(step, Choose):
        return words(step.choose, lang)
    if isinstance(step, Guide):
        return f"{len(step.guide)} × {words(step.guide[0].text, lang)}"
    if isinstance(step, Action):
        return f"{step.action}{f' → {step.into}' if step.into else ''}"
    if isinstance(step, Article):
        return step.article
    if isinstance(step, SetSlots):
        return ", ".join(f"{slot} = {value}" for slot, value in step.set_slots.items())
    if isinstance(step, HandOff):
        return step.handoff
    return words(step.end, lang) if isinstance(step, EndStep) and isinstance(step.end, dict) else ""


def _bad_steps(flow: Flow, faulty: Collection[int]) -> set[str]:
    """The steps in which the lines lie."""
    starts = sorted((line, name) for name, line in flow.lines.items())
    found = set()
    for line in faulty:
        within = [name for start, name in starts if start <= line]
        if within:
            found.add(within[-1])
    return found


def _short(text: str, limit: int = LABEL_CHARS) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
