"""Random lookup-table layers: their constants, the Relax expression, and what tests/oracle.py says they compute."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tests import oracle
from tvm_ext import op
from tvm_ext.compute.narrow import narrow_table

_SEARCH = ("centroids", "inv_scale", "score_bias", "split_dims", "split_thresholds")


@dataclass(frozen=True)
class Layer:
    """One layer. `x` is the input's shape; `kernel` makes it a convolution.

    search : "u8", "s8" (int8 search of unsigned or signed inputs), "u6", "s6" (int6) or "f32".
    tree : by hash trees instead of centroids; some thresholds are beyond all inputs, at the ends of their range, or
        not a number.
    table : "int8", "extreme" (int8, only +-127), "identity" (column c is the code of codebook c) or "float32".
    affine : random scales and a bias; else scale 1 and no bias, so that int8 sums come out as exact integers.
    coarse : inputs quantize to few levels and centroids repeat, so that many scores tie.
    dead : the first codebook is all zeros.
    codes : also give the logical codes.
    scored : a float32 search by scores, with a bias, in place of distances.
    """

    name: str
    x: tuple[int, ...]
    outputs: int
    length: int = 4
    centroids: int = 16
    search: str = "u8"
    tree: bool = False
    table: str = "int8"
    mult: bool = False
    affine: bool = False
    relu: bool = False
    relu6: bool = False
    residual: bool = False
    coarse: bool = False
    dead: bool = False
    kernel: tuple[int, int] | None = None
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    codes: bool = False
    scored: bool = False

    @property
    def depth(self) -> int:
        return self.x[1] * self.kernel[0] * self.kernel[1] if self.kernel else self.x[-1]

    @property
    def num_codebooks(self) -> int:
        return -(-self.depth // self.length)

    @property
    def exact(self) -> bool:
        """The result is a sum of integers, so any order gives the same float32."""
        return self.table != "float32" and not self.affine

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(self.name.encode()))

    def inputs(self) -> np.ndarray:
        rng = self.rng()
        x = rng.standard_normal(self.x).astype("float32")
        return np.abs(x) if self.search[0] == "u" else x

    def residual_value(self) -> np.ndarray:
        """Small integers, shaped like the result."""
        shape = self.reference()[0].shape
        return self.rng().integers(-50, 50, shape).astype("float32")

    def constants(self) -> dict[str, np.ndarray]:
        """The arguments of the ops, those that are given."""
        rng = self.rng()
        c, k, v, m = self.num_codebooks, self.centroids, self.length, self.outputs
        values: dict[str, np.ndarray] = {}
        if self.tree:
            values |= self._trees(rng)
        elif self.search == "f32":
            values["centroids"] = rng.standard_normal((c, k, v)).astype("float32")
            if self.scored:
                values["score_bias"] = rng.standard_normal((c, k)).astype("float32")
        else:
            values["centroids"] = rng.integers(-127, 128, (c, k, v)).astype("int8")
            values["inv_scale"] = rng.uniform(0.5, 2, c).astype("float32") * np.float32(1 if self.coarse else 60)
            values["score_bias"] = rng.integers(-30000, 30000, (c, k)).astype("int32")
        if self.coarse and not self.tree:
            values["centroids"] //= 32
            values["score_bias"] //= 2000
        if self.dead and not self.tree:
            values["centroids"][0] = 0
            if "score_bias" in values:
                values["score_bias"][0] = 0
        if self.search in ("u6", "s6"):
            values["centroids"] = np.clip(values["centroids"] // 4 * 4, -124, 124)
            values["score_bias"] = values["score_bias"] // 16 * 16
        values["table"] = self._table(rng, (c, k, m))
        values["table_scale"] = rng.uniform(0.001, 0.1, m).astype("float32") if self.affine else np.ones(m, "float32")
        if self.affine:
            values["bias"] = rng.standard_normal(m).astype("float32")
        if self.mult:
            values["mult"] = rng.integers(1, 128, c).astype("uint8")
        return values

    def _trees(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        c, k = self.num_codebooks, self.centroids
        thresholds, values = rng.standard_normal((c, k - 1)), {}
        odd = [np.nan, np.inf, -np.inf, -1000, 1000, 0]
        if self.search != "f32":
            values["inv_scale"] = rng.uniform(0.5, 2, c).astype("float32") * np.float32(1 if self.coarse else 60)
            low, high = (0, 255) if self.search == "u8" else (-128, 127)
            thresholds = np.rint(thresholds * values["inv_scale"][:, None])
            odd += [low, low + 1, high, high + 1]
        thresholds = np.abs(thresholds) if self.search == "u8" else thresholds
        strange = rng.random(thresholds.shape) < 0.2
        values["split_thresholds"] = np.where(strange, rng.choice(odd, thresholds.shape), thresholds).astype("float32")
        values["split_dims"] = rng.integers(0, self.length, (c, k.bit_length() - 1)).astype("int32")
        return values

    def _table(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
        if self.table == "float32":
            return rng.standard_normal(shape).astype("float32")
        if self.table == "extreme":
            return np.where(rng.random(shape) < 0.9, 127, -127).astype("int8")
        if self.table == "identity":
            assert shape[2] == shape[0]
            table = np.zeros(shape, "int8")
            table[np.arange(shape[0]), :, np.arange(shape[0])] = np.arange(shape[1])
            return table
        return rng.integers(-128, 128, shape).astype("int8")

    def attributes(self) -> dict:
        """Keyword arguments of the ops (and of the oracle)."""
        attrs: dict = {
            "encode_dtype": {"f": "float32", "8": "int8", "6": "int6"}[self.search.strip("us")[0]],
            "input_signed": self.search[0] != "u",
        }
        if self.tree:
            attrs |= {"encoder": "tree", "subvector_len": self.length}
        if self.kernel:
            attrs |= {
                "kernel_shape": self.kernel, "strides": self.strides, "pads": self.pads, "dilations": self.dilations
            }  # fmt: skip
        return attrs

    def expression(self, x: relax.Expr, residual: relax.Expr | None) -> relax.Expr:
        """The layer with its epilogue, in ordinary Relax ops behind the lut op."""
        make = op.conv2d if self.kernel else op.dense
        constants = {"centroids": None} | {k: relax.const(v) for k, v in self.constants().items()}
        y = make(x, **constants, **self.attributes(), layer=self.name)
        y = y if residual is None else relax.op.add(y, residual)
        y = relax.op.nn.relu(y) if self.relu else y
        return relax.op.clip(y, 0, 6) if self.relu6 else y

    def encode(self, x: relax.Expr) -> relax.Expr:
        """The logical codes alone."""
        consts = {k: relax.const(v) for k, v in self.constants().items() if k in _SEARCH}
        return op.encode(x, **{"centroids": None} | consts, **self.attributes(), layer=self.name)

    def reference(self, x: np.ndarray | None = None, table_bits: int = 8) -> tuple[np.ndarray, np.ndarray]:
        """(y without residual and relu, codes [..., C]) of the oracle, with a table narrowed to `table_bits`."""
        run = oracle.conv2d if self.kernel else oracle.dense
        values = {"centroids": None} | self.constants()
        if table_bits < 8:
            values["table"], values["table_scale"] = narrow_table(
                values["table"], values["table_scale"], 1 << (8 - table_bits)
            )
        return run(self.inputs() if x is None else x, **values, **self.attributes())

    def near_ties(self) -> np.ndarray:
        """bool like codes: the two best of a float32 search are too close for float32 arithmetic to decide."""
        x = self.inputs()
        if self.kernel:
            x = oracle.im2col(x, self.kernel, self.strides, self.pads, self.dilations)
        constants = self.constants()
        cents = constants["centroids"].astype(np.float64)
        padded = np.zeros((*x.shape[:-1], self.num_codebooks * self.length))
        padded[..., : self.depth] = x
        sub = padded.reshape(*x.shape[:-1], self.num_codebooks, 1, self.length)
        distance = ((sub - cents) ** 2).sum(-1)
        if "score_bias" in constants:
            distance = -2 * ((sub * cents).sum(-1) + constants["score_bias"])
        distance = np.sort(distance, axis=-1)
        magnitude = (sub**2).sum(-1)[..., 0] + (cents**2).sum(-1).max(-1)
        return (distance[..., 1] - distance[..., 0] < 1e-5 * magnitude) & (distance[..., 1] > distance[..., 0])


def module_of(layers: Sequence[Layer]) -> tvm.IRModule:
    """main(x of every layer, residuals) -> (result of every layer, codes of those that ask for them)."""
    xs = [relax.Var(f"x_{layer.name}", relax.TensorType(layer.x, "float32")) for layer in layers]
    extra = {
        layer.name: relax.Var(f"r_{layer.name}", relax.TensorType(layer.residual_value().shape, "float32"))
        for layer in layers
        if layer.residual
    }
    bb = relax.BlockBuilder()
    with bb.function("main", [*xs, *extra.values()]):
        with bb.dataflow():
            outputs = []
            for layer, x in zip(layers, xs, strict=True):
                outputs.append(bb.emit(layer.expression(x, extra.get(layer.name))))
            outputs += [bb.emit(layer.encode(x)) for layer, x in zip(layers, xs, strict=True) if layer.codes]
            result = bb.emit_output(relax.Tuple(outputs))
        bb.emit_func_output(result)
    return bb.get()


def inputs_of(layers: Sequence[Layer]) -> list[np.ndarray]:
    """The arguments of `module_of`'s main."""
    return [layer.inputs() for layer in layers] + [layer.residual_value() for layer in layers if layer.residual]


def check(layer: Layer, got: np.ndarray, table_bits: int = 8) -> None:
    """`got` is what the layer computes: equal integers, or float32 within rounding; near ties are skipped."""
    y, _ = layer.reference(table_bits=table_bits)
    if layer.residual:
        y = y + layer.residual_value()
    if layer.relu:
        y = np.maximum(y, 0)
    if layer.relu6:
        y = np.clip(y, 0, 6)
    keep = np.ones(y.shape, bool)
    if layer.search == "f32" and not layer.tree:
        ties = layer.near_ties().any(-1)  # a position whose codes are in doubt
        assert ties.mean() < 0.02
        keep = np.broadcast_to(~ties[:, None] if layer.kernel else ~ties[..., None], y.shape)
    assert got.shape == y.shape and got.dtype == np.float32
    if layer.exact and table_bits >= 8:
        np.testing.assert_array_equal(got[keep], y[keep], err_msg=layer.name)
    else:
        np.testing.assert_allclose(got[keep], y[keep], rtol=2e-6, atol=2e-5, err_msg=layer.name)


def check_codes(layer: Layer, got: np.ndarray) -> None:
    """`got` are the logical codes, as the op lays them out."""
    _, codes = layer.reference()
    keep = ~layer.near_ties() if layer.search == "f32" and not layer.tree else np.ones(codes.shape, bool)
    got = np.moveaxis(got, 1, -1) if layer.kernel else got
    np.testing.assert_array_equal(got[keep], codes[keep], err_msg=layer.name)
