"""Where a model lets the positions of a padded axis meet: found by comparing its graph at two sizes of the axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from tvm_ext.transform._rewrite import array, is_constant

EXCLUDE, ZERO, MEAN, BIAS, PLACE = "exclude", "zero", "mean", "bias", "place"
"""What `MaskPadding` does with the padding: -inf, 0, 0 and another divisor, -inf as an attention's bias, nothing: only
where a position lies matters."""


class PaddingError(ValueError):
    """The graph cannot be run on a padded axis; the message says why."""


@dataclass(frozen=True)
class Site:
    """Argument `operand` of the call of binding number `binding` has padding along `axis` that must not be seen.

    Of kind PLACE: what is computed there depends on the position itself, or is that of certain positions.
    """

    binding: int
    operand: int
    axis: int
    kind: str


_POSITIONWISE_NAMES = """
abs add astype bitwise_and bitwise_not bitwise_or bitwise_xor broadcast_to bucketize ceil clip cos divide equal erf exp
expand_dims floor floor_divide floor_mod full full_like greater greater_equal isfinite isinf isnan less less_equal log
logical_and logical_not logical_or logical_xor maximum minimum mod multiply negative nn.gelu nn.gelu_tanh nn.leakyrelu
nn.relu nn.silu nn.softplus not_equal one_hot ones ones_like permute_dims power round rsqrt sigmoid sign sin sqrt square
squeeze subtract tan tanh where zeros zeros_like
"""
"""An element of the result depends on the elements of the arguments at the same position of the axis only."""
_BY_IMAGE_NAMES = """
image.resize2d lut.conv2d nn.adaptive_avg_pool2d nn.avg_pool2d nn.batch_norm nn.conv1d nn.conv2d nn.max_pool2d
"""
"""Work on every entry of the first axis alone."""
_POSITIONWISE, _BY_IMAGE = (
    frozenset(f"relax.{name}" for name in names.split()) for names in (_POSITIONWISE_NAMES, _BY_IMAGE_NAMES)
)
_KEEPS_ZEROS = frozenset({"relax.astype", "relax.broadcast_to", "relax.reshape"})


def padding_sites(mod: tvm.IRModule, other: tvm.IRModule, size: int, other_size: int, lowest: int) -> list[Site]:
    """The places where `mod` must not see padding along the axes that have `size` there and `other_size` in `other`.

    Without any, positions are independent: results do not depend on what else the axis holds. `lowest` is the smallest
    size that will be run. Constants must be equal in both, or the one the beginning of the other; see `FoldSizes`.

    Raises
    ------
    PaddingError : the graphs differ in more than sizes, or an operator mixes positions in a way that is not known.
    """
    walk = _Walk(size, other_size, lowest)
    pairs = list(zip(_bindings(mod), _bindings(other), strict=False))
    if len(_bindings(mod)) != len(_bindings(other)):
        raise PaddingError("the graph has other operators at other sizes")
    for number, (mine, others) in enumerate(pairs):
        walk.visit(number, mine, others)
    return walk.sites


def _bindings(mod: tvm.IRModule) -> list[relax.Binding]:
    return [binding for block in mod["main"].body.blocks for binding in block.bindings]


class _Walk:
    """Goes through two graphs side by side."""

    def __init__(self, size: int, other_size: int, lowest: int) -> None:
        self.size, self.other_size, self.lowest = size, other_size, lowest
        self.sites: list[Site] = []
        self._zeros: dict[relax.Var, set[int]] = {}
        self._inner: dict[relax.Var, dict[int, int]] = {}
        self._compared: set[tuple[Any, Any]] = set()
        self._number = 0

    def visit(self, number: int, mine: relax.Binding, others: relax.Binding) -> None:
        self._number = number
        a, b = mine.value, others.value
        if type(a) is not type(b) or (isinstance(a, relax.Call) and a.op != b.op):
            raise PaddingError("the graph has other operators at other sizes")
        for x, y in zip(_leaves(a), _leaves(b), strict=True):
            if is_constant(x):
                self._compare(x, y)
        if not isinstance(a, relax.Call):
            return
        tensors = [*zip(_leaves(a), _leaves(b), strict=True), (mine.var, others.var)]
        if any(self.axes(x, y) for x, y in tensors):
            self._var = mine.var
            self._rule(a, b)(a, b)
            self._keep_inner(mine.var, a, b, others.var)
            self._keep_zeros(mine.var, a, b, others.var)

    def axes(self, a: relax.Expr, b: relax.Expr) -> list[int]:
        """The axes of a tensor that grow with the dimension."""
        shapes = _shape(a), _shape(b)
        if len(shapes[0]) != len(shapes[1]):
            raise PaddingError("tensors have other numbers of axes at other sizes")
        found = []
        for axis, (x, y) in enumerate(zip(*shapes, strict=True)):
            if x != y:
                if x * self.other_size != y * self.size or x % self.size:
                    raise PaddingError(f"a tensor has {x} entries at size {self.size} and {y} at {self.other_size}")
                found.append(axis)
        return found

    def _compare(self, a: Any, b: Any) -> None:
        if a.same_as(b) or (a, b) in self._compared:
            return
        self._compared.add((a, b))
        x, y = array(a), array(b)
        if x.ndim == y.ndim:
            common = tuple(slice(0, min(sizes)) for sizes in zip(x.shape, y.shape, strict=True))
            if np.array_equal(x[common], y[common], equal_nan=x.dtype.kind == "f"):
                if any(
                    size != other and np.ptp(x, axis).any()
                    for axis, (size, other) in enumerate(zip(x.shape, y.shape, strict=True))
                ):
                    self._add(0, 0, PLACE)  # else it is the same at all positions
                return
        raise PaddingError("a constant in the graph depends on the size")

    def _rule(self, a: relax.Call, b: relax.Call) -> Callable[[relax.Call, relax.Call], None]:
        name = str(a.op.name) if isinstance(a.op, tvm.ir.Op) else "a function"
        if not tvm_ffi.structural_equal(a.attrs, b.attrs):
            raise PaddingError(f"{name} has other attributes at other sizes")
        if name in _POSITIONWISE:
            return lambda a, b: None
        rules = {
            "relax.reshape": self._reshape, "relax.take": self._take, "relax.strided_slice": self._slice,
            "relax.matmul": self._matmul, "relax.nn.softmax": self._softmax, "relax.nn.log_softmax": self._softmax,
            "relax.sum": self._sum, "relax.mean": self._sum, "relax.max": self._sum, "relax.concat": self._untouched,
            "relax.split": self._untouched, "relax.nn.layer_norm": self._norm, "relax.nn.rms_norm": self._norm,
            "relax.lut.dense": self._rows, "relax.lut.levels": self._elements, "relax.nn.attention": self._attention,
            "relax.nn.attention_bias": self._attention, "relax.arange": self._arange, "relax.tril": self._place,
            "relax.triu": self._place,
        }  # fmt: skip
        if name in _BY_IMAGE:
            return self._images
        if name not in rules:
            raise PaddingError(f"{_told(name)} may mix positions")
        return rules[name]

    def _add(self, operand: int, axis: int, kind: str) -> None:
        self.sites.append(Site(self._number, operand, axis, kind))

    def _reshape(self, a: relax.Call, b: relax.Call) -> None:
        """The step between neighbouring positions must stay the same."""
        before, after = self._steps(a.args[0], b.args[0]), self._steps(a, b)
        if len(before) != len(after):
            raise PaddingError("reshape merges axes of this dimension")
        inner = {}
        for axis, old, new in zip(self.axes(a, b), before, after, strict=True):
            times = old[0] // new[0]
            most = _shape(a)[axis] // self.size
            if (new[0] * times, new[1] * times) != old or most % max(times, 1):
                raise PaddingError("reshape moves positions")
            inner[axis] = times
        self._inner[self._var] = inner

    def _steps(self, a: relax.Expr, b: relax.Expr) -> list[tuple[int, int]]:
        """Elements from a position to the next, in both graphs, along each growing axis."""
        inner, steps = self._inner.get(a, {}), []
        for axis in self.axes(a, b):
            steps.append(tuple(int(np.prod(_shape(x)[axis + 1 :])) * inner.get(axis, 1) for x in (a, b)))
        return steps

    def _keep_inner(self, var: relax.Var, a: relax.Call, b: relax.Call, other: relax.Var) -> None:
        """How many entries a position has side by side on an axis that the dimension shares with another."""
        name, shape = str(a.op.name), _shape(var)
        shared = [axis for axis in self.axes(var, other) if shape[axis] != self.size]
        if name == "relax.reshape" or not shared:
            return
        inner: dict[int, int] = {}
        for arg in _leaves(a):
            known, rank = self._inner.get(arg, {}), len(_shape(arg))
            for axis, times in known.items():
                if name == "relax.permute_dims":
                    to = _order(a).index(axis)
                elif name == "relax.take":
                    to = axis + (0 if a.attrs.axis is None else int(a.attrs.axis))
                else:  # axes are aligned from the last
                    to = axis + len(shape) - rank
                if inner.setdefault(to, times) != times:
                    raise PaddingError(f"{_told(name)} reads axes of different order together")
        if any(axis not in inner for axis in shared):
            raise PaddingError(f"{_told(name)} may mix positions")
        self._inner[var] = inner

    def _take(self, a: relax.Call, b: relax.Call) -> None:
        data, indices = a.args
        taken = self.axes(data, b.args[0])
        axis = 0 if a.attrs.axis is None else int(a.attrs.axis) % len(_shape(data))
        if axis not in taken:
            return
        if not is_constant(indices) or not ((array(indices) >= 0) & (array(indices) < self.lowest)).all():
            raise PaddingError(f"positions are picked that are not among the first {self.lowest}")
        self._add(0, axis, PLACE)

    def _slice(self, a: relax.Call, b: relax.Call) -> None:
        axes, begin, end, *given = (_numbers(arg) for arg in a.args[1:])
        other, strides = _numbers(b.args[2]), given[0] if given else [1] * len(axes)
        shape, growing, result = _shape(a.args[0]), self.axes(a.args[0], b.args[0]), self.axes(a, b)
        for axis, first, second, last, stride in zip(axes, begin, other, end, strides, strict=True):
            axis %= len(shape)
            if axis in growing:
                whole = axis in result and first == 0
                few = axis not in result and first >= 0 and 0 <= last <= self.lowest
                if stride != 1 or first != second or not (whole or few):
                    raise PaddingError(f"a slice does not start at the first position, or not end in {self.lowest}")
                if not whole:
                    self._add(0, axis, PLACE)
            elif axis in result:
                if stride < 1 or first != second or first < 0:
                    raise PaddingError("the beginning of a slice depends on the size")
                self._add(0, axis, PLACE)

    def _matmul(self, a: relax.Call, b: relax.Call) -> None:
        (x, y), others = a.args, b.args
        left, right = len(_shape(x)) - 1, max(len(_shape(y)) - 2, 0)
        if left not in self.axes(x, others[0]):
            return
        if left not in self._zeros.get(x, ()) and right not in self._zeros.get(y, ()):
            self._add(0, left, ZERO)

    def _softmax(self, a: relax.Call, b: relax.Call) -> None:
        axis = int(a.attrs.axis) % len(_shape(a))
        if axis in self.axes(a, b):
            self._add(0, self._single(a.args[0], b.args[0], axis), EXCLUDE)

    def _sum(self, a: relax.Call, b: relax.Call) -> None:
        rank = len(_shape(a.args[0]))
        axes = range(rank) if a.attrs.axis is None else [int(axis) % rank for axis in a.attrs.axis]
        kind = {"relax.sum": ZERO, "relax.mean": MEAN, "relax.max": EXCLUDE}[str(a.op.name)]
        growing = [axis for axis in self.axes(a.args[0], b.args[0]) if axis in axes]
        if growing and kind == MEAN and "float" not in str(a.args[0].ty.dtype):
            raise PaddingError("a mean of whole numbers mixes positions")
        if kind == MEAN and len(growing) > 1:
            raise PaddingError("a mean goes over two axes of this dimension")
        for axis in growing:
            self._add(0, self._single(a.args[0], b.args[0], axis), kind)

    def _attention(self, a: relax.Call, b: relax.Call) -> None:
        if a.attrs.window_size is not None or self.axes(a.args[0], b.args[0]) not in ([], [0], [1]):
            raise PaddingError("this form of attention mixes positions")
        if 1 in self.axes(a.args[1], b.args[1]):
            self._add(1, self._single(a.args[1], b.args[1], 1), BIAS)

    def _single(self, a: relax.Expr, b: relax.Expr, axis: int) -> int:
        """The axis, if it holds the dimension alone."""
        if _shape(a)[axis] != self.size:
            raise PaddingError("an operator mixes positions along an axis that holds this dimension and another")
        return axis

    def _untouched(self, a: relax.Call, b: relax.Call) -> None:
        """The axis that pieces are put together or cut along does not grow."""
        for x, y in zip(_leaves(a), _leaves(b), strict=True):
            if int(a.attrs.axis or 0) % len(_shape(x)) in self.axes(x, y):
                raise PaddingError(f"{_told(str(a.op.name))} works along this dimension")

    def _norm(self, a: relax.Call, b: relax.Call) -> None:
        growing, rank = self.axes(a.args[0], b.args[0]), len(_shape(a.args[0]))
        if any(int(axis) % rank in growing for axis in a.attrs.axes):
            raise PaddingError(f"{_told(str(a.op.name))} works along this dimension")

    def _rows(self, a: relax.Call, b: relax.Call) -> None:
        if len(_shape(a)) - 1 in self.axes(a.args[0], b.args[0]):
            raise PaddingError("a dense layer sums over this dimension")

    def _elements(self, a: relax.Call, b: relax.Call) -> None:
        if any(self.axes(x, y) for x, y in zip(_leaves(a)[1:], _leaves(b)[1:], strict=True)):
            raise PaddingError("the levels of a quantizer depend on the size")

    def _images(self, a: relax.Call, b: relax.Call) -> None:
        if self.axes(a.args[0], b.args[0]) != [0]:
            raise PaddingError(f"{_told(str(a.op.name))} mixes positions")

    def _arange(self, a: relax.Call, b: relax.Call) -> None:
        start, _, step = (_numbers(arg) for arg in a.args)
        if (start, step) != (_numbers(b.args[0]), _numbers(b.args[2])):
            raise PaddingError("arange starts elsewhere at other sizes")
        self._add(0, 0, PLACE)

    def _place(self, a: relax.Call, b: relax.Call) -> None:
        self._add(0, 0, PLACE)

    def _keep_zeros(self, var: relax.Var, a: relax.Call, b: relax.Call, other: relax.Var) -> None:
        """Remember along which axes the padding of a result is 0."""
        name = str(a.op.name)
        if name == "relax.nn.softmax":
            self._zeros[var] = {site.axis for site in self.sites if site.binding == self._number}
        elif name == "relax.full_like" and is_constant(a.args[1]) and not array(a.args[1]).any():
            self._zeros[var] = set(self.axes(var, other))
        elif name == "relax.where" and all(_shape(arg) == _shape(var) for arg in a.args[1:]):
            self._zeros[var] = self._zeros.get(a.args[1], set()) & self._zeros.get(a.args[2], set())
        elif name == "relax.permute_dims" and a.args[0] in self._zeros:
            self._zeros[var] = {_order(a).index(axis) for axis in self._zeros[a.args[0]]}
        elif name in _KEEPS_ZEROS and a.args[0] in self._zeros:
            steps = dict(zip(self.axes(a.args[0], b.args[0]), self._steps(a.args[0], b.args[0]), strict=True))
            kept = {steps[axis] for axis in self._zeros[a.args[0]]}
            there = zip(self.axes(var, other), self._steps(var, other), strict=True)
            self._zeros[var] = {axis for axis, step in there if step in kept}


def _leaves(expr: relax.Expr) -> list[relax.Expr]:
    """The tensors among what an expression takes, those of tuples written in place too."""
    children = expr.args if isinstance(expr, relax.Call) else expr.fields if isinstance(expr, relax.Tuple) else []
    found: list[relax.Expr] = []
    for child in children:
        if isinstance(child, relax.Tuple):
            found += _leaves(child)
        elif isinstance(child.ty, relax.TensorType):
            found.append(child)
    return found


def _shape(expr: relax.Expr) -> list[int]:
    if not isinstance(expr.ty, relax.TensorType):
        return []
    return [int(d) for d in expr.ty.shape]


def _order(permute: relax.Call) -> list[int]:
    rank = len(_shape(permute))
    return [int(axis) % rank for axis in permute.attrs.axes or reversed(range(rank))]


def _numbers(expr: relax.Expr) -> list[int]:
    """The values of a number, or of a tuple of such."""
    fields = list(expr.fields) if isinstance(expr, relax.Tuple) else [expr]
    return [int(getattr(field, "value", field)) for field in fields]


def _told(name: str) -> str:
    return name.removeprefix("relax.").removeprefix("nn.")
