"""exp, erf, tanh and sigmoid of float32 as polynomials, so that they run in vectors: a libm call takes one value.

The coefficients are least-squares fits over Chebyshev nodes, weighted until the relative error is even. With the
rounding of float32 the largest relative errors are 2e-7 (exp), 4e-7 (erf), 5e-7 (tanh) and 4e-7 (sigmoid). NaN stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from tvm import tirx
from tvm.ir.prim.expr import Let

_EXP = (1.0, 1.00000004, 0.499999921, 0.166664202, 0.0416682256, 0.00837481579, 0.00138368437)
"""exp(r) by powers of r, |r| <= log(2) / 2."""
_ERF_TO = 3.9
"""erf is 1 - 3.5e-8 here, and taken as that from here on."""
_ERF = (
    0.362583989, -0.18101164, 0.134689418, -0.109510711, 0.0906982115, -0.0740455495, 0.0577280067, -0.0415924864,
    0.02966451, -0.022520944, 0.0127767041, -0.00314540163, 0.00250811036, -0.00415765155, 0.00174571072,
)  # fmt: skip
"""erf(x) / x by powers of 2 (x / 3.9)^2 - 1."""
_TANH_TO = 9.0
_TANH = (0.99999998, 0.133809983, 0.00349555539, 2.06085427e-05, 1.33539261e-08)
_TANH_BELOW = (1.0, 0.467143139, 0.0258768581, 0.000328558114, 7.77625405e-07)
"""tanh(x) / x by powers of x^2, numerator and denominator."""
_LOG2_E = 1.44269504
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
"""Their sum is log(2); the product of the first with a whole number below 2^9 is exact."""
_EXP_FROM, _EXP_TO = -87.33, 89.0
"""Below, exp is 0 (it would be no normal number); above, infinite."""

_numbers = count()


def exp(x: tirx.Expr) -> tirx.Expr:
    """e^x; 0 where that is below 1.2e-38."""

    def body(clipped):
        whole = tirx.floor(clipped * _f(_LOG2_E) + _f(0.5))
        return _let(whole, lambda n: _let(clipped - n * _f(_LN2_HIGH) - n * _f(_LN2_LOW), lambda r: scaled(n, r)))

    def scaled(n, r):
        bits = (n.astype("int32") + tirx.const(126, "int32")) << tirx.const(23, "int32")
        return _polynomial(_EXP, r) * tirx.reinterpret("float32", bits) * _f(2)  # 2^128 is no float32

    def whole(v):
        return tirx.Select(v < _f(_EXP_FROM), _f(0), _let(_clip(v, _EXP_FROM, _EXP_TO), body))

    return _let(x, whole)


def erf(x: tirx.Expr) -> tirx.Expr:
    def body(v):
        return v * _let(v * v * _f(2 / _ERF_TO**2) - _f(1), lambda t: _polynomial(_ERF, t))

    return _let(_clip(x, -_ERF_TO, _ERF_TO), body)


def tanh(x: tirx.Expr) -> tirx.Expr:
    def body(v):
        return _let(v * v, lambda t: v * _polynomial(_TANH, t) / _polynomial(_TANH_BELOW, t))

    return _let(_clip(x, -_TANH_TO, _TANH_TO), body)


def sigmoid(x: tirx.Expr) -> tirx.Expr:
    return _f(1) / (_f(1) + exp(_f(0) - x))


def _f(value: float) -> tirx.Expr:
    return tirx.const(value, "float32")


def _clip(x: tirx.Expr, low: float, high: float) -> tirx.Expr:
    """NaN stays: a comparison with it is false, and then the second operand is taken."""
    return tirx.max(_f(low), tirx.min(_f(high), x))


def _let(value: tirx.Expr, body: Callable[[tirx.Var], tirx.Expr]) -> tirx.Expr:
    var = tirx.Var(f"t{next(_numbers)}", "float32")
    return Let(var, value, body(var))


def _polynomial(coefficients: Sequence[float], x: tirx.Expr) -> tirx.Expr:
    """Horner's rule; the lowest power first."""
    result = _f(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = result * x + _f(coefficient)
    return result
