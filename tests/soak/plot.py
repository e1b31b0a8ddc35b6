"""Draws the samples of a run as SVG."""

from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP = 960, 150, 70, 30, 46
COLOURS = ["#1f6fb4", "#c8501e", "#2a8a3c"]
MARKS = {"restart": "#999999", "kill": "#d03030", "nats": "#8040b0"}
NAMES = {"restart": "restart", "kill": "kill -9", "nats": "restart of NATS"}


def plot(title, seconds, panels, marks):
    """Panels are (title, [(name, [(seconds, value)])]); marks are (seconds, kind). Returns the SVG."""
    bottom = TOP + len(panels) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 24}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{bottom + 24}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>',
    ]
    x = lambda at: LEFT + at / seconds * (WIDTH - LEFT - 20)
    for number, (name, lines) in enumerate(panels):
        top = TOP + number * (HEIGHT + GAP) + 16
        most = max((value for _, line in lines for _, value in line), default=1) * 1.1 or 1
        y = lambda value, top=top, most=most: top + HEIGHT * (1 - value / most)
        parts.append(f'<text x="{LEFT}" y="{top - 5}">{escape(name)}</text>')
        for step in range(5):
            value = most * step / 4
            parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - 20}" stroke="#dddddd"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,.0f}</text>')
        for at, kind in marks:
            parts.append(f'<path d="M{x(at):.1f} {top}V{top + HEIGHT}" stroke="{MARKS[kind]}" stroke-dasharray="2 3"/>')
        for colour, (label, line) in zip(COLOURS, lines):
            points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line)
            name = f"<title>{escape(label)}</title>"
            parts.append(f'<polyline fill="none" stroke="{colour}" points="{points}">{name}</polyline>')
        for step in range(7):
            at = seconds * step / 6
            parts.append(f'<text x="{x(at):.1f}" y="{top + HEIGHT + 15}" text-anchor="middle">{at / 60:.4g} min</text>')
    legend = [(label, COLOURS[number]) for number, (label, _) in enumerate(panels[0][1])]
    legend += [(NAMES[kind], MARKS[kind]) for kind in NAMES if any(kind == mark for _, mark in marks)]
    for number, (label, colour) in enumerate(legend):
        at = LEFT + number * 130
        parts.append(f'<path d="M{at} {bottom + 6}h20" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{at + 26}" y="{bottom + 10}">{escape(label)}</text>')
    return "\n".join([*parts, "</svg>", ""])
