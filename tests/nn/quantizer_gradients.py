"""The gradients of the methods' papers, value by value in plain float64 arithmetic: nothing here is autograd's.

Every function takes the values x [N], the incoming gradient g [N] and the method's parameters, and returns the
gradients of x and of each parameter in the order of the quantizer's own.
"""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def lsq(x: Array, g: Array, step: Array, *, low: int, high: int, scale: float) -> list[Array]:
    (s,) = step
    dx, ds = np.zeros_like(x), 0.0
    for i, value in enumerate(x):
        unit = value / s
        if unit < low:
            ds += g[i] * low
        elif unit > high:
            ds += g[i] * high
        else:
            dx[i] = g[i]
            ds += g[i] * (np.rint(unit) - unit)
    return [dx, np.array([ds * scale])]


def nulsq(x: Array, g: Array, steps: Array, *, negative: int) -> list[Array]:
    below, above = steps[0, :negative], steps[0, negative:]
    dx, ds = np.zeros_like(x), np.zeros_like(steps[0])
    for i, value in enumerate(x):
        side, sign, offset = (above, 1, negative) if value > 0 else (below, -1, 0)
        size, reached = abs(value), 0.0
        if value == 0 or (value < 0 and not negative):
            dx[i] = g[i] * (value == 0)
            continue
        for k, step in enumerate(side):
            if size <= reached + step:  # bucket k: reached < size <= reached + step
                up = 1.0 if size > reached + step / 2 else 0.0
                ds[offset + k] += sign * g[i] * (up - (size - reached) / step)
                dx[i] = g[i]
                break
            reached += step
        else:
            ds[offset : offset + len(side)] += sign * g[i]
    return [dx, ds[None]]


def llt(x: Array, g: Array, log_scale: Array, table: Array, *, tau: float, signed: bool) -> list[Array]:
    logits, s = table[0], math.exp(log_scale[0])
    rows, grain = logits.shape
    n = rows * grain
    p = np.exp(logits / tau - (logits / tau).max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    c = np.cumsum(p.ravel()) / rows
    lookup = np.concatenate([-c[::-1], [0], c]) if signed else np.concatenate([np.zeros(n + 1), c])
    dx, dscale, dlookup = np.zeros_like(x), 0.0, np.zeros(2 * n + 1)
    hits = np.zeros(2 * n + 1)
    for i, value in enumerate(x):
        unit = value / s
        index = int(np.rint(min(max(unit, -1), 1) * n)) + n
        inside = abs(unit) <= 1
        dx[i] = g[i] * inside
        dscale += g[i] * (lookup[index] - unit * inside)
        dlookup[index] += s * g[i]
        hits[index] += 1
    cells = 2 * n + 1 if signed else n + 1
    dlookup *= len(x) / cells / (np.sqrt(hits) + 1e-5)
    dc = dlookup[n + 1 :] - (dlookup[:n][::-1] if signed else 0)
    dp = np.cumsum(dc[::-1])[::-1].reshape(rows, grain) / rows
    dlogits = p * (dp - (dp * p).sum(1, keepdims=True)) / tau
    return [dx, np.array([s * dscale]), dlogits[None]]


def quantization_network(
    x: Array, g: Array, alpha: Array, beta: Array, *, levels: Array, biases: Array, temperature: float
) -> list[Array]:
    (a,), (b,) = alpha, beta
    dx, da, db = np.zeros_like(x), 0.0, 0.0
    for i, value in enumerate(x):
        y, slope = levels[0], 0.0
        for k, bias in enumerate(biases):
            s = 1 / (1 + math.exp(-temperature * (b * value - bias)))
            y += (levels[k + 1] - levels[k]) * s
            slope += (levels[k + 1] - levels[k]) * s * (1 - s)
        dx[i] = g[i] * a * b * temperature * slope
        da += g[i] * y
        db += g[i] * value * a * temperature * slope
    return [dx, np.array([da]), np.array([db])]


def pact(x: Array, g: Array, clip: Array, *, signed: bool) -> list[Array]:
    (a,) = clip
    dx = g * ((x > (-a if signed else 0)) & (x < a))
    da = (g * (x >= a)).sum() - ((g * (x <= -a)).sum() if signed else 0)
    return [dx, np.array([da])]


def dorefa_activation(x: Array, g: Array) -> list[Array]:
    return [g * ((x >= 0) & (x <= 1))]


def dorefa_weight(x: Array, g: Array) -> list[Array]:
    """Through tanh and the division by twice the largest, as if the rounding were not there; times 2."""
    t = np.tanh(x)
    top = int(np.abs(t).argmax())
    most = abs(t[top])
    dt = g / most
    dt[top] -= np.sign(t[top]) * (g * t).sum() / most**2
    return [dt * (1 - t**2)]


def apot_activation(x: Array, g: Array, clip: Array, *, levels: Array) -> list[Array]:
    (a,) = clip
    dx, da = np.zeros_like(x), 0.0
    for i, value in enumerate(x):
        unit = value / a
        if unit > 1:
            da += g[i]
        elif unit >= 0:
            dx[i] = g[i]
            da += g[i] * (levels[np.abs(levels - unit).argmin()] - unit)
    return [dx, np.array([da])]


def apot_weight(x: Array, g: Array, clip: Array, *, levels: Array) -> list[Array]:
    (a,) = clip
    n, centered = len(x), x - x.mean()
    spread = math.sqrt((centered**2).sum() / (n - 1))
    unit = centered / spread
    da = 0.0
    for i, value in enumerate(unit / a):
        da += g[i] * (np.sign(value) if abs(value) > 1 else levels[np.abs(levels - value).argmin()] - value)
    return [_through_standardization(unit, g, spread), np.array([da])]


def _through_standardization(unit: Array, g: Array, spread: float) -> Array:
    n = len(unit)
    return (g - g.mean() - unit * (g * unit).sum() / (n - 1)) / spread


def lcq(x: Array, g: Array, clip: Array, theta: Array, *, steps: int, signed: bool) -> list[Array]:
    """Straight through the rounding; g and its inverse are lines of slope K * rise over K intervals."""
    (a,), count = clip, theta.shape[1]
    rise = np.exp(theta[0]) / np.exp(theta[0]).sum()
    edges = np.concatenate([[0], np.cumsum(rise)])
    dx, da, drise = np.zeros_like(x), 0.0, np.zeros(count)
    for i, value in enumerate(x):
        sign = np.sign(value) if signed else 1.0
        unit = abs(value) / a if signed else max(value, 0) / a
        clipped = unit > 1
        unit = min(unit, 1.0)
        j = min(int(unit * count), count - 1)
        curve = edges[j] + rise[j] * count * (unit - j / count)
        q = np.rint(curve * steps) / steps
        k = min(max(int(np.searchsorted(edges[:-1], q, side="right")) - 1, 0), count - 1)
        out = k / count + (q - edges[k]) / (rise[k] * count)
        back = 1 / (rise[k] * count)  # d out / d q, and d q / d curve = 1
        slope = 0.0 if clipped else back * rise[j] * count
        dx[i] = g[i] * slope * (signed or value > 0)
        da += g[i] * sign * (out - slope * unit)
        dcurve = np.zeros(count)
        dcurve[:j] += 1
        dcurve[j] += count * (unit - j / count)
        dout = dcurve * back
        dout[:k] -= back
        dout[k] -= (q - edges[k]) / (rise[k] ** 2 * count)
        drise += g[i] * sign * a * dout
    return [dx, np.array([da]), (rise * (drise - (drise * rise).sum()))[None]]


def lqnets(x: Array, g: Array, *, highest: float | None) -> list[Array]:
    return [g if highest is None else g * ((x >= 0) & (x <= highest))]


def ttq(x: Array, g: Array, positive: Array, negative: Array) -> list[Array]:
    above, below = x > 0.05 * np.abs(x).max(), x < -0.05 * np.abs(x).max()
    dx = g * np.where(above, positive[0], np.where(below, negative[0], 1.0))
    return [dx, np.array([(g * above).sum()]), np.array([-(g * below).sum()])]


def minmax(x: Array, g: Array) -> list[Array]:
    return [g]
