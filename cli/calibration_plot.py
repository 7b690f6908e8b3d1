"""The reliability diagram as SVG: what answers say against how often they are right."""

from __future__ import annotations

from html import escape

from cli.calibration_table import Reliability

SIZE, MARGIN = 420.0, 56.0
COLOURS = ("#1f6feb", "#d29922", "#2da44e", "#cf222e")


def reliability_svg(results: dict[str, Reliability]) -> str:
    """One line of dots for each kind of query; the area of a dot grows with its answers."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE + 180:g} {SIZE:g}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{SIZE + 180:g}" height="{SIZE:g}" fill="#ffffff"/>',
        *_axes(),
    ]
    for number, (name, result) in enumerate(results.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts += _dots(result, colour)
        y = MARGIN + 20 * number
        parts.append(f'<circle cx="{SIZE + 8:g}" cy="{y - 4:g}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{SIZE + 20:g}" y="{y:g}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _axes() -> list[str]:
    low, high = _at(0.0, 0.0), _at(1.0, 1.0)
    parts = [
        f'<path d="M{low[0]:.1f} {low[1]:.1f}L{high[0]:.1f} {high[1]:.1f}" stroke="#8c959f" '
        'stroke-dasharray="4 4"/>'
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        (x, _), (_, y) = _at(share, 0.0), _at(0.0, share)
        parts.append(f'<path d="M{x:.1f} {low[1]:.1f}V{high[1]:.1f}" stroke="#d0d7de" fill="none"/>')
        parts.append(f'<path d="M{low[0]:.1f} {y:.1f}H{high[0]:.1f}" stroke="#d0d7de" fill="none"/>')
        parts.append(f'<text x="{x:.1f}" y="{low[1] + 18:.1f}" text-anchor="middle">{share:g}</text>')
        parts.append(f'<text x="{low[0] - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{share:g}</text>')
    middle = (low[0] + high[0]) / 2
    parts.append(f'<text x="{middle:.1f}" y="{SIZE - 12:.1f}" text-anchor="middle">probability said</text>')
    parts.append(
        f'<text transform="translate(16 {middle:.1f}) rotate(-90)" text-anchor="middle">'
        "share within 25 m</text>"
    )
    return parts


def _dots(result: Reliability, colour: str) -> list[str]:
    places = [(*_at(each.said, each.right), each.answers) for each in result.bins]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
    line = f'<path d="M{path}" stroke="{colour}" fill="none" stroke-width="1.5"/>'
    return [line] + [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3.0 + (answers / result.queries) ** 0.5 * 8:.1f}" '
        f'fill="{colour}" fill-opacity="0.6"/>'
        for x, y, answers in places
    ]


def _at(said: float, right: float) -> tuple[float, float]:
    span = SIZE - 2 * MARGIN
    return MARGIN + said * span, SIZE - MARGIN - right * span
