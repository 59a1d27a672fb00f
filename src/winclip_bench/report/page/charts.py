"""Charts as SVG: curves, score histograms, a metric against k. Colours and dark mode are the stylesheet's.

Every line differs from the others of its chart in its dashes or marks too, not in its colour alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from winclip_bench.errors import printable
from winclip_bench.report.page.content import Histogram, Points

WIDTH, HEIGHT = 260, 190
LEFT, RIGHT, TOP, BOTTOM = 34, 8, 8, 30
MOST_LINES = 7  # that can be told apart


@dataclass(frozen=True)
class Line:
    """A metric against k: places on the x axis, percent, and half of the band's width where there are draws."""

    label: str
    places: Sequence[int]
    values: Sequence[float]
    stds: Sequence[float | None]


@dataclass(frozen=True)
class _Axes:
    """From values to places in the picture."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> str:
        return f"{self.across(x):.1f},{self.down(y):.1f}"

    def across(self, x: float) -> float:
        low, high = self.x
        return LEFT + (WIDTH - LEFT - RIGHT) * (min(max(x, low), high) - low) / (high - low)

    def down(self, y: float) -> float:
        low, high = self.y
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (min(max(y, low), high) - low) / (high - low)


def curves(
    lines: Sequence[tuple[str, Points]], limit: float, axes: tuple[str, str], shaded: bool, description: str
) -> Markup:
    """ROC-like curves up to the false-positive rate ``limit``; ``shaded`` fills what lies under the first one.

    lines   label and points, ascending
    axes    what stands along x and y
    """
    place = _Axes((0, limit), (0, 1))
    drawn = []
    for number, (_, points) in enumerate(lines):
        cut = _cut(points, limit)
        path = " ".join(place.at(x, y) for x, y in cut)
        if shaded and number == 0:
            drawn.append(f'<polygon class="area" points="{place.at(0, 0)} {path} {place.at(limit, 0)}"/>')
        drawn.append(f'<polyline class="line l{number}" points="{path}"/>')
    ticks = [(limit * share, f"{100 * limit * share:g}") for share in (0, 1 / 3, 2 / 3, 1)] if limit < 1 else [
        (share, f"{100 * share:g}") for share in (0, 0.5, 1)
    ]  # fmt: skip
    frame = _frame(place, ticks, [(share, f"{100 * share:g}") for share in (0, 0.5, 1)], axes)
    return _svg(frame + "".join(drawn), description)


def _cut(points: Points, limit: float) -> list[tuple[float, float]]:
    """Points up to a limit on x, the last one interpolated there."""
    cut: list[tuple[float, float]] = []
    for x, y in points:
        if x > limit and cut:
            before_x, before_y = cut[-1]
            cut.append((limit, before_y + (y - before_y) * (limit - before_x) / (x - before_x)))
            break
        cut.append((x, y))
    return cut


def histogram(content: Histogram, description: str) -> Markup:
    """Scores of normal images upwards and of anomalous ones downwards, with lines at the thresholds."""
    most = max(*content.normal, *content.anomalous, 1)
    low, high = content.edges[0], content.edges[-1]
    place = _Axes((low, high), (-most, most))
    drawn = []
    for name, counts, sign in (("normal", content.normal, 1), ("anomalous", content.anomalous, -1)):
        for left, right, count in zip(content.edges, content.edges[1:], counts, strict=False):
            if count:
                x, y = place.across(left), min(place.down(sign * count), place.down(0))
                drawn.append(
                    f'<rect class="{name}" x="{x + 0.4:.1f}" y="{y:.1f}" width="{place.across(right) - x - 0.8:.1f}" '
                    f'height="{abs(place.down(sign * count) - place.down(0)):.1f}"/>'
                )
    for number, value in enumerate(content.thresholds.values()):
        drawn.append(f'<path class="threshold t{number}" d="M{place.across(value):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    x_ticks = [(low, f"{low:.3g}"), ((low + high) / 2, f"{(low + high) / 2:.3g}"), (high, f"{high:.3g}")]
    frame = _frame(place, x_ticks, [(-most, str(most)), (0, "0"), (most, str(most))], ("image score", "images"))
    return _svg(frame + "".join(drawn), description)


def against_k(lines: Sequence[Line], ks: Sequence[int], description: str) -> Markup:
    """A metric in percent against k, whose values stand at equal distances; the band is one standard deviation."""
    ends = [
        value + sign * (std or 0)
        for line in lines
        for value, std in zip(line.values, line.stds, strict=True)
        for sign in (-1, 1)
    ]
    low, high = max(0.0, min(ends)), min(100.0, max(ends))
    room = max((high - low) * 0.12, 0.5)
    low, high = max(0.0, low - room), min(100.0, high + room)
    place = _Axes((-0.3, len(ks) - 0.7), (low, high))
    drawn = []
    for number, line in enumerate(lines):
        points = list(zip(line.places, line.values, (std or 0 for std in line.stds), strict=True))
        if any(std for _, _, std in points):
            upper = " ".join(place.at(x, y + std) for x, y, std in points)
            lower = " ".join(place.at(x, y - std) for x, y, std in reversed(points))
            drawn.append(f'<polygon class="band l{number}" points="{upper} {lower}"/>')
        drawn.append(f'<polyline class="line l{number}" points="{" ".join(place.at(x, y) for x, y, _ in points)}"/>')
        for x, y, _ in points:
            drawn.append(_mark(number, place.across(x), place.down(y)))
    y_ticks = [(value, f"{value:g}") for value in _round_values(low, high)]
    frame = _frame(place, [(at, str(k)) for at, k in enumerate(ks)], y_ticks, ("k", ""))
    return _svg(frame + "".join(drawn), description)


def _round_values(low: float, high: float) -> list[float]:
    """Two to five values between, at steps of 1, 2 or 5 times a power of ten.

    >>> _round_values(81.9, 86.0)
    [82.0, 84.0, 86.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = next(size * power for size in (5, 2, 1) if (high - low) / (size * power) >= 2)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 9) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _mark(number: int, x: float, y: float) -> str:
    """A dot, square, triangle or diamond, in turn."""
    shapes = (
        f'<circle class="mark l{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>',
        f'<rect class="mark l{number}" x="{x - 2.7:.1f}" y="{y - 2.7:.1f}" width="5.4" height="5.4"/>',
        f'<path class="mark l{number}" d="M{x:.1f} {y - 3.6:.1f}l3.5 6.4h-7z"/>',
        f'<path class="mark l{number}" d="M{x:.1f} {y - 3.9:.1f}l3.9 3.9 -3.9 3.9 -3.9 -3.9z"/>',
    )
    return shapes[number % len(shapes)]


def key(number: int, marked: bool) -> Markup:
    """A line's sample for a legend."""
    line = f'<path class="line l{number}" d="M1 5h24"/>' + (_mark(number, 13, 5) if marked else "")
    return Markup(f'<svg class="key" viewBox="0 0 26 10" aria-hidden="true">{line}</svg>')


def _frame(
    place: _Axes, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]], axes: tuple[str, str]
) -> str:
    bottom = HEIGHT - BOTTOM
    parts = []
    for y, text in y_ticks:
        at = place.down(y)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 5}" y="{at + 3:.1f}">{text}</text>')
    for number, (x, text) in enumerate(x_ticks):
        anchor = "end" if number and number == len(x_ticks) - 1 and place.across(x) > WIDTH - 2 * RIGHT else "middle"
        parts.append(f'<text class="tick {anchor}" x="{place.across(x):.1f}" y="{bottom + 13}">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis middle" x="{middle}" y="{HEIGHT - 3}">{escape(axes[0])}</text>')
    parts.append(
        f'<text class="axis middle" transform="rotate(-90)" x="{-(TOP + bottom) / 2}" y="9">{escape(axes[1])}</text>'
    )
    return "".join(parts)


def _svg(content: str, description: str) -> Markup:
    """``content`` is markup made here, of numbers and escaped text."""
    label = escape(printable(description))
    return Markup(f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{content}</svg>')
