"""How inputs are made comparable with centroids: the quantization of an integer search."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

_ROUND = 12582912.0
_ROUND_BITS = 0x4B400000
"""1.5 * 2^23 and its bits: floats of this size are whole numbers, in steps of one."""


GRID = {"int8": 1, "int6": 4}
"""Step between the integers of inputs and centroids, by encode_dtype; scores of "int6" are multiples of 16."""


@dataclass(frozen=True)
class Search:
    """How codes are found: `encode_dtype` in GRID or "float32", `input_signed` for integers, `zero_point` added to xq.

    encoder : "l2" (closest centroid) or "tree".
    """

    encode_dtype: str
    input_signed: bool
    zero_point: int = 0
    encoder: str = "l2"

    @property
    def integer(self) -> bool:
        return self.encode_dtype in GRID

    @property
    def scores_hold_index(self) -> bool:
        """Whether the four low bits of all scores are zero, so that packed biases can put the index there."""
        return self.encode_dtype == "int6"

    @property
    def bounds(self) -> tuple[float, float]:
        return (-128.0, 127.0) if self.input_signed else (0.0, 255.0)

    def quantize(self, x, inv_scale, dtype: str, lanes: int = 1):
        """clip(round_half_even(x * inv_scale)), on the grid, + zero_point, as `dtype`. NaN becomes one of the bounds.

        With `lanes`, of a vector with one scale. The bounds are integers, so it may be clipped before it is rounded;
        then adding 1.5 * 2^23 rounds half to even, and the low bits of the sum are the integer. Half a step of the grid
        is added with it, room for which the clip leaves, and the bits below a step are cleared.
        """
        step = GRID.get(self.encode_dtype, 1)

        def const(value, dtype: str):
            scalar = tirx.const(value, dtype)
            return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)

        def typed(name: str) -> str:
            return name if lanes == 1 else f"{name}x{lanes}"

        low, high = const(self.bounds[0], "float32"), const(self.bounds[1] - step // 2, "float32")
        product = x * (inv_scale if lanes == 1 else tirx.Broadcast(inv_scale, lanes))
        bounded = tirx.max(tirx.min(product, high), low)
        bits = tirx.reinterpret(typed("int32"), bounded + const(_ROUND + self.zero_point + step // 2, "float32"))
        value = (bits - const(_ROUND_BITS, "int32")).astype(typed(dtype))
        # of the narrow values, of which a register holds more
        return value if step == 1 else value & const((256 if dtype == "uint8" else 0) - step, dtype)
