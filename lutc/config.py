"""How a layer is turned into lookup tables. Frozen, validated, the same object in training, calibration and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

ENCODERS = ("l2", "tree")
INTEGER_GRIDS = {"int8": 1, "int6": 4}  # step between the integers that inputs and centroids become
ENCODE_DTYPES = ("float32", *INTEGER_GRIDS)
TABLE_DTYPES = ("int8", "float32")
METRICS = ("outputs", "inputs")
TREE_GRADIENTS = ("flips", "softmax")


@dataclass(frozen=True)
class LUTConfig:
    """Settings of a lookup-table layer.

    Parameters
    ----------
    num_centroids : K, centroids a codebook holds; 2..256. 16 fills one 128-bit table register.
    subvector_len : V, length of a subvector; None means 9 for 3x3 convs, kh*kw for other spatial kernels,
        4 for 1x1 convs and 16 for dense layers.
    encoder : how codes are found: "l2" is closest-centroid search, "tree" a walk down a hash tree of log2 K
        comparisons (K a power of two).
    encode_dtype : "int8" (integer search, the fast one), "int6" (the same on a grid of 6 bits, the fastest) or
        "float32" (exact search). Trees have no "int6".
    table_dtype : "int8" (one scale per output column) or "float32".
    table_bits : of the values of an int8 table; 4 keeps them in -7..7. They are stored as int8 all the same.
    metric : what makes a centroid close: "outputs", the error it leaves in the outputs of the layer that is quantized,
        or "inputs", the Euclidean distance of LUT-NN. Both cost the same at inference. Trees choose their splits by it.
    tree_gradient : what stands for the comparisons of trees in training: "flips", what the outputs jump by where one
        comes out otherwise, or "softmax" over leaves of tanh of the comparisons (Schoenleber et al., 2023).
    """

    num_centroids: int = 16
    subvector_len: int | None = None
    encoder: str = "l2"
    encode_dtype: str = "int8"
    table_dtype: str = "int8"
    table_bits: int = 8
    metric: str = "outputs"
    tree_gradient: str = "flips"

    def __post_init__(self) -> None:
        if not 2 <= self.num_centroids <= 256:
            raise ValueError(f"num_centroids must be in 2..256, not {self.num_centroids}")
        if self.subvector_len is not None and self.subvector_len < 1:
            raise ValueError(f"subvector_len must be at least 1, not {self.subvector_len}")
        choices = (
            ("encoder", ENCODERS),
            ("encode_dtype", ENCODE_DTYPES),
            ("table_dtype", TABLE_DTYPES),
            ("metric", METRICS),
            ("tree_gradient", TREE_GRADIENTS),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.encoder == "tree" and self.num_centroids & (self.num_centroids - 1):
            raise ValueError(f'num_centroids must be a power of two with encoder="tree", not {self.num_centroids}')
        if self.encoder == "tree" and self.encode_dtype == "int6":
            raise ValueError('encode_dtype must be int8 or float32 with encoder="tree"')
        if not 2 <= self.table_bits <= 8:
            raise ValueError(f"table_bits must be in 2..8, not {self.table_bits}")

    def subvector_len_for(self, kernel_shape: tuple[int, int] | None) -> int:
        """V for a layer: `kernel_shape` of a conv, or None for a dense layer."""
        if self.subvector_len is not None:
            return self.subvector_len
        if kernel_shape is None:
            return 16
        taps = kernel_shape[0] * kernel_shape[1]
        return 4 if taps == 1 else taps

    @property
    def grid(self) -> int | None:
        """Step between the integers of the search; None for an exact one."""
        return INTEGER_GRIDS.get(self.encode_dtype)

    def search_key(self) -> tuple[object, ...]:
        """What layers that share codebooks must have in common."""
        return (self.num_centroids, self.encoder, self.encode_dtype, self.metric)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


SCALAR_METHODS = (
    "llt",
    "nulsq",
    "quantization_network",
    "lsq",
    "pact",
    "dorefa",
    "apot",
    "lcq",
    "lqnets",
    "ttq",
    "minmax",
)
EDGE_POLICIES = ("float", "8bit", "same")
_WEIGHT_PARTNER = {"pact": "dorefa"}  # methods that quantize activations only


@dataclass(frozen=True)
class ScalarConfig:
    """Settings of a scalar-quantized layer: every weight and every input value becomes one of 2^bits levels.

    Parameters
    ----------
    method : where the levels come from, for weights and inputs; see docs/quantizers.md.
    weight_bits, input_bits : 1..8, or None to leave weights or inputs float.
    weight_method, input_method : another method for one of the two; "nulsq" with weight_method="lsq" is nuLSQ-A, with
        input_method="lsq" nuLSQ-W. "pact" takes "dorefa" for weights.
    per_channel : weights have their own parameters for each output channel.
    input_per_channel : inputs have their own for each channel (conv) or feature (dense).
    input_signed : whether inputs can be negative; None asks the calibration data, and means no without any.
    weight_options, input_options : further arguments of the methods' classes in lutc.nn.quantizers.
    first_last : what happens to the first and the last dense or convolution layer of the model: they stay "float", get
        "8bit" MinMax weights and inputs, or the "same" settings.
    """

    method: str = "nulsq"
    weight_bits: int | None = 4
    input_bits: int | None = 4
    weight_method: str | None = None
    input_method: str | None = None
    per_channel: bool = False
    input_per_channel: bool = False
    input_signed: bool | None = None
    weight_options: Mapping[str, object] = field(default_factory=dict)
    input_options: Mapping[str, object] = field(default_factory=dict)
    first_last: str = "float"

    def __post_init__(self) -> None:
        for name in ("weight_bits", "input_bits"):
            bits = getattr(self, name)
            if bits is not None and not 1 <= bits <= 8:
                raise ValueError(f"{name} must be in 1..8 or None, not {bits}")
        if self.weight_bits is None and self.input_bits is None:
            raise ValueError("weight_bits or input_bits must be given")
        for name in ("method", "weight_method", "input_method"):
            value = getattr(self, name)
            if value not in SCALAR_METHODS and not (value is None and name != "method"):
                raise ValueError(f"{name} must be one of {', '.join(SCALAR_METHODS)}, not {value!r}")
        if self.first_last not in EDGE_POLICIES:
            raise ValueError(f"first_last must be one of {', '.join(EDGE_POLICIES)}, not {self.first_last!r}")

    @property
    def method_of_weights(self) -> str:
        return self.weight_method or _WEIGHT_PARTNER.get(self.method, self.method)

    @property
    def method_of_inputs(self) -> str:
        return self.input_method or self.method

    def at_edge(self) -> ScalarConfig | None:
        """The settings of a first or last layer, None for float."""
        if self.first_last == "8bit":
            return ScalarConfig("minmax", 8, 8, input_signed=self.input_signed, first_last="same")
        return self if self.first_last == "same" else None

    def to_dict(self) -> dict[str, object]:
        return asdict(self)
