"""The supervisor's charts as pictures."""

from __future__ import annotations

import io
import re
from typing import Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from bot.desk.figures import Series
from bot.models.gate import Report

LIGHT = {"text": "#1f1c19", "muted": "#69625b", "line": "#e6e2dc", "lines": ("#b8430f", "#2f6690", "#2c6e5d")}
DARK = {"text": "#ece8e4", "muted": "#a9a19a", "line": "#383431", "lines": ("#ff9c6b", "#7fb3dd", "#7fd09b")}
MOST_LABELS = 12


def draw(shown: Series, names: dict[str, str], *, dark: bool, form: Literal["svg", "png"]) -> bytes:
    """A transparent picture in SVG, or a PNG on a ground of its own for a report. names: key → words. Blocks."""
    colours = DARK if dark else LIGHT
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown.labels))
    labels = [names.get(label, label) for label in shown.labels]
    if all(re.fullmatch(r"\d{4}-\d\d-\d\d", label) for label in labels):
        labels = [f"{label[8:]}.{label[5:7]}" for label in labels]
    sideways = shown.kind == "bars" and any(len(label) > 5 for label in labels)
    for number, (key, values) in enumerate(shown.lines.items()):
        colour = colours["lines"][number % 3]
        if shown.kind == "bars" and sideways:
            axes.barh(list(places), [value or 0 for value in values], color=colour, height=0.7)
            axes.set_yticks(list(places), [label if len(label) < 28 else label[:27] + "…" for label in labels])
            axes.set_ylim(max(len(labels), 5) - 0.5, -0.5)
        elif shown.kind == "bars":
            axes.bar(list(places), [value or 0 for value in values], color=colour, width=0.8)
        else:
            measured = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
            axes.plot(
                [place for place, _ in measured],
                [value for _, value in measured],
                color=colour,
                marker="o",
                markersize=3.5,
                linewidth=1.6,
                label=names.get(key, key),
            )
    if not sideways:
        step = max(1, -(-len(labels) // MOST_LABELS))
        axes.set_xticks(list(places)[::step], labels[::step])
        axes.set_xlim(-0.6, max(len(labels) - 0.4, 0.6))
    if shown.kind == "shares":
        axes.set_ylim(0, 1.05)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    elif not sideways:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=shown.kind == "bars"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(shown.lines) > 1:
        axes.legend(frameon=False, labelcolor=colours["text"], fontsize=8)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(axis="x" if sideways else "y", color=colours["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colours["muted"], labelsize=8, length=0)
    if not any(value for line in shown.lines.values() for value in line):
        axes.text(0.5, 0.5, names.get("nothing", "–"), ha="center", transform=axes.transAxes, color=colours["muted"])
    return _saved(figure, form, dark=dark)


def draw_calibration(report: Report, names: dict[str, str], *, dark: bool) -> bytes:
    """How often the likeliest article was right, by how sure the version was; as an SVG. The nearer to the diagonal,
    the more a confidence means what it says. Blocks."""
    colours = DARK if dark else LIGHT
    figure = Figure(figsize=(4.6, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=colours["muted"], linewidth=1, linestyle=(0, (4, 4)))
    for number, (name, found) in enumerate((("live", report.live_calibration), ("candidate", report.calibration))):
        if found is None or not found.bins:
            continue
        bins = [each for each in found.bins if each.right.value is not None]
        middle = [each.right.value or 0.0 for each in bins]
        axes.errorbar(
            [each.confidence for each in bins],
            middle,
            yerr=[
                [max(0.0, value - (each.right.low or 0.0)) for value, each in zip(middle, bins, strict=True)],
                [max(0.0, (each.right.high or 0.0) - value) for value, each in zip(middle, bins, strict=True)],
            ],
            color=colours["lines"][1 - number],
            marker="o" if number else "s",
            markersize=4,
            linewidth=1.6 if number else 1.0,
            elinewidth=0.8,
            capsize=2,
            label=names[name],
        )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.05)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(names["confidence"], color=colours["muted"], fontsize=8)
    axes.set_ylabel(names["right"], color=colours["muted"], fontsize=8)
    axes.legend(frameon=False, labelcolor=colours["text"], fontsize=8, loc="upper left")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(color=colours["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colours["muted"], labelsize=8, length=0)
    return _saved(figure, "svg", dark=dark)


def _saved(figure: Figure, form: Literal["svg", "png"], *, dark: bool) -> bytes:
    out = io.BytesIO()
    # Letters stay letters: the picture is small, and a screen reader finds them.
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        if form == "svg":
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        else:
            figure.savefig(out, format="png", dpi=200, facecolor="#1a1918" if dark else "white")
    return out.getvalue()
