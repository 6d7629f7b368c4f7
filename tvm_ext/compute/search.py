"""How inputs are made comparable with centroids: the quantization of an int8 search."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx


@dataclass(frozen=True)
class Search:
    """How codes are found: `encode_dtype` "int8" or "float32", `input_signed` for int8, `zero_point` added to xq."""

    encode_dtype: str
    input_signed: bool
    zero_point: int = 0

    @property
    def bounds(self) -> tuple[float, float]:
        return (-128.0, 127.0) if self.input_signed else (0.0, 255.0)

    def quantize(self, x, inv_scale, dtype: str):
        """clip(round_half_even(x * inv_scale)) + zero_point, as `dtype`. NaN becomes one of the bounds."""
        low, high = (tirx.const(bound, "float32") for bound in self.bounds)
        bounded = tirx.max(tirx.min(tirx.nearbyint(x * inv_scale), high), low)
        return (bounded.astype("int32") + tirx.const(self.zero_point, "int32")).astype(dtype)

    def quantize_vector(self, x, inv_scale, dtype: str, lanes: int):
        """`quantize` of a vector of `lanes` elements with one scale."""
        low, high = (tirx.Broadcast(tirx.const(bound, "float32"), lanes) for bound in self.bounds)
        bounded = tirx.max(tirx.min(tirx.nearbyint(x * tirx.Broadcast(inv_scale, lanes)), high), low)
        shifted = bounded.astype(f"int32x{lanes}") + tirx.Broadcast(tirx.const(self.zero_point, "int32"), lanes)
        return shifted.astype(f"{dtype}x{lanes}")
