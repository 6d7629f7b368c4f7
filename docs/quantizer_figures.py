"""Draw docs/figures/METHOD.svg: each quantizer's staircase before and after it was fitted to data.

    python docs/quantizer_figures.py [FOLDER]

3-bit quantizers of inputs see values of a skewed distribution after a ReLU (weights of a normal one where a method is
for weights), and learn to reproduce them by Adam on the squared error, 600 steps, with their own schedules.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from lutc.nn.levels import Levels
from lutc.nn.quantizers import QUANTIZERS, ScalarQuantizer

WIDTH, HEIGHT, MARGIN = 360, 220, 30
STEPS, RATE = 600, 0.02
_WEIGHTS = ("ttq",)
_OPTIONS: dict[str, dict[str, object]] = {
    "llt": {"granularity": 9},
    "quantization_network": {"temperature_step": 2.0, "epochs": 50},
    "pact": {"clip": 2.0},
    "apot": {"clip": 4.0},
    "lcq": {"clip": 4.0},
}


def data(count: int, is_weight: bool) -> Tensor:
    x = torch.randn(count)
    return x if is_weight else (x * 0.9).exp().sub(0.6).relu().clamp(max=6) / 1.5


def fitted(method: str) -> tuple[Levels, Levels, Tensor]:
    """(levels before, levels after, a sample of the data)."""
    torch.manual_seed(0)
    is_weight = method in _WEIGHTS
    bits = 2 if method == "ttq" else 3
    quantizer = QUANTIZERS[method](bits, signed=is_weight, is_weight=is_weight, **_OPTIONS.get(method, {}))
    sample = data(4000, is_weight)
    quantizer.observe(sample)
    before = staircase(quantizer, sample)
    parameters = list(quantizer.parameters())
    optimizer = torch.optim.Adam(parameters, RATE) if parameters else None
    quantizer.train()
    for step in range(STEPS):
        quantizer.set_progress(step / STEPS)
        x = data(4000, is_weight)
        loss = (quantizer(x) - x).square().mean()
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return before, staircase(quantizer, sample), sample


def staircase(quantizer: ScalarQuantizer, sample: Tensor) -> Levels:
    """Of a quantizer in eval mode; one for weights is defined by the weights it sees."""
    quantizer.eval()
    if not quantizer.is_weight:
        return quantizer.levels()
    x = sample.sort().values
    y = quantizer(x).detach()
    rises = (y.diff() != 0).nonzero()[:, 0]
    return Levels((x[rises] + x[rises + 1]) / 2, torch.cat([y[rises], y[-1:]]))


def svg(method: str, before: Levels, after: Levels, sample: Tensor) -> str:
    low, high = float(sample.min()), float(sample.quantile(0.999))
    low -= 0.05 * (high - low)
    bottom, top = low, max(float(v.levels.max()) for v in (before, after))
    top = max(top, high) * 1.05
    bottom = min(bottom, *(float(v.levels.min()) for v in (before, after)))

    def place(x: float, y: float) -> str:
        column = MARGIN + (WIDTH - 2 * MARGIN) * (x - low) / (high - low)
        row = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (y - bottom) / (top - bottom)
        return f"{column:.1f},{row:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<polygon points="{histogram(sample, low, high)}" fill="#e4e9f0"/>',
        f'<polyline points="{place(low, low)} {place(high, high)}" stroke="#b9c0ca" fill="none" '
        'stroke-dasharray="3 3"/>',
    ]
    for levels, color, dash in ((before, "#d9822b", "5 3"), (after, "#1f5fa8", "none")):
        points = " ".join(place(x, y) for x, y in corners(levels, low, high))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.8" stroke-dasharray="{dash}"/>'
        )
    for value in (low, high):
        x = place(value, bottom).split(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - 12}" text-anchor="middle" fill="#555555">{value:.1f}</text>')
    parts.append(f'<text x="{MARGIN}" y="18" fill="#222222">{method}</text>')
    parts.append(f'<text x="{WIDTH - 150}" y="18" fill="#d9822b">before</text>')
    parts.append(f'<text x="{WIDTH - 100}" y="18" fill="#1f5fa8">after training</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def corners(levels: Levels, low: float, high: float) -> list[tuple[float, float]]:
    edges = [low, *(min(max(t, low), high) for t in levels.thresholds.tolist()), high]
    points = []
    for index, y in enumerate(levels.levels.tolist()):
        points += [(edges[index], y), (edges[index + 1], y)]
    return points


def histogram(sample: Tensor, low: float, high: float) -> str:
    counts = torch.histc(sample, 40, low, high)
    tall = counts.log1p() / counts.log1p().max() * (HEIGHT - 2 * MARGIN) * 0.9
    step = (WIDTH - 2 * MARGIN) / len(counts)
    points = [(MARGIN, HEIGHT - MARGIN)]
    for index, size in enumerate(tall.tolist()):
        row = HEIGHT - MARGIN - size
        points += [(MARGIN + index * step, row), (MARGIN + (index + 1) * step, row)]
    points.append((WIDTH - MARGIN, HEIGHT - MARGIN))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def main(folder: Path, methods: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for method in methods:
        (folder / f"{method}.svg").write_text(svg(method, *fitted(method)), encoding="utf-8")


if __name__ == "__main__":
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures"
    main(chosen, list(QUANTIZERS))
