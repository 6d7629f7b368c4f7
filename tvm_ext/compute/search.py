"""How inputs are made comparable with centroids: the quantization of an int8 search."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

_ROUND = 12582912.0
_ROUND_BITS = 0x4B400000
"""1.5 * 2^23 and its bits: floats of this size are whole numbers, in steps of one."""


@dataclass(frozen=True)
class Search:
    """How codes are found: `encode_dtype` "int8" or "float32", `input_signed` for int8, `zero_point` added to xq.

    encoder : "l2" (closest centroid) or "tree".
    """

    encode_dtype: str
    input_signed: bool
    zero_point: int = 0
    encoder: str = "l2"

    @property
    def bounds(self) -> tuple[float, float]:
        return (-128.0, 127.0) if self.input_signed else (0.0, 255.0)

    def quantize(self, x, inv_scale, dtype: str, lanes: int = 1):
        """clip(round_half_even(x * inv_scale)) + zero_point, as `dtype`. NaN becomes one of the bounds.

        With `lanes`, of a vector with one scale. The bounds are integers, so it may be clipped before it is rounded;
        then adding 1.5 * 2^23 rounds half to even, and the low bits of the sum are the integer.
        """

        def const(value, dtype: str):
            scalar = tirx.const(value, dtype)
            return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)

        def typed(name: str) -> str:
            return name if lanes == 1 else f"{name}x{lanes}"

        low, high = (const(bound, "float32") for bound in self.bounds)
        product = x * (inv_scale if lanes == 1 else tirx.Broadcast(inv_scale, lanes))
        bounded = tirx.max(tirx.min(product, high), low)
        bits = tirx.reinterpret(typed("int32"), bounded + const(_ROUND + self.zero_point, "float32"))
        return (bits - const(_ROUND_BITS, "int32")).astype(typed(dtype))
