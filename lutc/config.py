"""How a layer is turned into lookup tables. Frozen, validated, the same object in training, calibration and reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass

ENCODERS = ("l2",)
ENCODE_DTYPES = ("float32", "int8")
TABLE_DTYPES = ("int8", "float32")


@dataclass(frozen=True)
class LUTConfig:
    """Settings of a lookup-table layer.

    Parameters
    ----------
    num_centroids : K, centroids a codebook holds; 2..256. 16 fills one 128-bit table register.
    subvector_len : V, length of a subvector; None means 9 for 3x3 convs, kh*kw for other spatial kernels,
        4 for 1x1 convs and 16 for dense layers.
    encoder : how codes are found; "l2" is closest-centroid search.
    encode_dtype : "int8" (integer search, the fast one) or "float32" (exact search).
    table_dtype : "int8" (one scale per output column) or "float32".
    """

    num_centroids: int = 16
    subvector_len: int | None = None
    encoder: str = "l2"
    encode_dtype: str = "int8"
    table_dtype: str = "int8"

    def __post_init__(self) -> None:
        if not 2 <= self.num_centroids <= 256:
            raise ValueError(f"num_centroids must be in 2..256, not {self.num_centroids}")
        if self.subvector_len is not None and self.subvector_len < 1:
            raise ValueError(f"subvector_len must be at least 1, not {self.subvector_len}")
        for name, allowed in (("encoder", ENCODERS), ("encode_dtype", ENCODE_DTYPES), ("table_dtype", TABLE_DTYPES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")

    def subvector_len_for(self, kernel_shape: tuple[int, int] | None) -> int:
        """V for a layer: `kernel_shape` of a conv, or None for a dense layer."""
        if self.subvector_len is not None:
            return self.subvector_len
        if kernel_shape is None:
            return 16
        taps = kernel_shape[0] * kernel_shape[1]
        return 4 if taps == 1 else taps

    def to_dict(self) -> dict[str, object]:
        return asdict(self)
