"""Vector instructions for `attention.py`, as LLVM's intermediate code: loads, products and sums of rows of numbers.

numba compiles Python loops, but it must assume that two arrays may overlap, and so keeps sums in memory. Therefore the
innermost loops are written here as instructions on registers; the loops around them are Python.

A row is `size` numbers, float32 or bfloat16, and is loaded as float32 vectors. bfloat16 is read in words of 32 bits:
the upper half of a float32 is the same number in bfloat16, so a word's upper number needs a mask and its lower one a
shift. A row's vectors are then all lower numbers of its first words, all upper ones of the same words, and so on. This
order is the same for every row, so products and sums need not undo it; only the store does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils

WIDEST = 16
"""float32 numbers in a vector, if the size of a row allows; the compiler splits it for narrower registers."""
CHUNK = 32
"""Numbers of a long line that a kernel takes as one row; the length of such a line is a multiple of it."""
TOGETHER = 8
"""Keys whose products with a query are summed as one vector."""
WITHIN_LANES = (0, 2, 8, 10, 4, 6, 12, 14), (1, 3, 9, 11, 5, 7, 13, 15)
"""Places in two vectors of TOGETHER numbers, counted through both, that are added to each other: here neighbours within
lanes of four numbers."""
ACROSS_LANES = (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)
"""The same for the two lanes of a vector."""
AHEAD = 8
"""Rows between the one in use and the one that is prefetched."""
LINE = 64
"""Bytes of a cache line."""

POWER_OF_TWO = (
    1.5403530393381608e-4,
    1.3333558146428443e-3,
    9.618129107628477e-3,
    5.550410866482158e-2,
    2.402265069591007e-1,
    6.931471805599453e-1,
    1.0,
)
"""ln(2)^n / n! for n from 6 down."""
INT, FLOAT, BYTE, ADDRESS = ir.IntType(32), ir.FloatType(), ir.IntType(8), ir.IntType(64)


class Rows:
    """How rows of `size` numbers are loaded, computed with and stored."""

    def __init__(self, size: int, *, is_half: bool) -> None:
        self.size, self.is_half = size, is_half
        self.num_bytes = size * (2 if is_half else 4)
        lanes = size // 2 if is_half else size
        self.width = next(width for width in (WIDEST, 8, 4, 2, 1) if lanes % width == 0)
        self.vector = ir.VectorType(FLOAT, self.width)
        self.words = ir.VectorType(INT, self.width)
        self.number = size // self.width

    def load(self, b: Any, address: Any) -> list[Any]:
        if not self.is_half:
            return [b.load(_pointer(b, address, 4 * self.width * i, self.vector), align=4) for i in range(self.number)]
        vectors = []
        for i in range(self.number // 2):
            words = b.load(_pointer(b, address, 4 * self.width * i, self.words), align=4)
            vectors.append(b.bitcast(b.shl(words, self._all(16)), self.vector))
            vectors.append(b.bitcast(b.and_(words, self._all(0xFFFF0000)), self.vector))
        return vectors

    def store(self, b: Any, address: Any, vectors: Sequence[Any]) -> None:
        """bfloat16 is rounded to the nearest, ties to even."""
        if self.is_half:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [
                b.or_(
                    b.lshr(self._rounded(b, low), self._all(16)), b.and_(self._rounded(b, high), self._all(0xFFFF0000))
                )
                for low, high in pairs
            ]
        for i, vector in enumerate(vectors):
            b.store(vector, _pointer(b, address, 4 * self.width * i, vector.type), align=4)

    def copy(self, b: Any, source: Any, target: Any) -> None:
        for i in range(self.number // 2 if self.is_half else self.number):
            offset = 4 * self.width * i
            words = b.load(_pointer(b, source, offset, self.words), align=4)
            b.store(words, _pointer(b, target, offset, self.words), align=4)

    def all(self, number: float) -> Any:
        return ir.Constant(self.vector, [number] * self.width)

    def repeated(self, b: Any, number: Any) -> Any:
        """A vector of one number."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = b.insert_element(nothing, number, INT(0))
        return b.shuffle_vector(first, nothing, ir.Constant(self.words, [0] * self.width))

    def larger(self, b: Any, x: Any, y: Any) -> Any:
        return self._call(b, "llvm.maxnum", [x, y])

    def plus_product(self, b: Any, total: Any, x: Any, y: Any) -> Any:
        """total + x * y."""
        return self._call(b, "llvm.fma", [x, y, total])

    def exp(self, b: Any, x: Any) -> Any:
        """exp(x), to a few units of the last place; |x| is limited to 87, where float32 ends.

        What is not a number stays so. 2**integer is built from its bits, 2**rest is its Taylor polynomial.
        """
        limited = self._call(b, "llvm.minnum", [x, self.all(87.0)])
        t = b.fmul(self._call(b, "llvm.maxnum", [limited, self.all(-87.0)]), self.all(1.4426950408889634))
        integer = self._call(b, "llvm.rint", [t])
        rest, p = b.fsub(t, integer), self.all(POWER_OF_TWO[0])
        for factor in POWER_OF_TWO[1:]:
            p = self.plus_product(b, self.all(factor), p, rest)
        exponent = b.shl(b.fptosi(integer, self.words), self._all(23))
        power = b.bitcast(b.add(b.bitcast(p, self.words), exponent), self.vector)
        return b.select(b.fcmp_unordered("uno", x, x), x, power)

    def as_stored(self, b: Any, vector: Any) -> Any:
        """Rounded to the numbers that a row can hold."""
        if not self.is_half:
            return vector
        return b.bitcast(b.and_(self._rounded(b, vector), self._all(0xFFFF0000)), self.vector)

    def sum(self, b: Any, vector: Any) -> Any:
        """The sum of a vector's numbers: one half is added to the other until one number is left."""
        while (count := vector.type.count) > 1:
            halves = range(count // 2), range(count // 2, count)
            vector = b.fadd(*(_picked(b, vector, vector, half) for half in halves))
        return b.extract_element(vector, INT(0))

    def prefetch(self, b: Any, address: Any) -> None:
        """Fetch a row from memory into the cache; an address behind the last row does no harm."""
        kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), INT, INT, INT])
        function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
        for offset in range(0, self.num_bytes, LINE):
            b.call(function, [_pointer(b, address, offset, BYTE), INT(0), INT(3), INT(1)])

    def _call(self, b: Any, name: str, arguments: Sequence[Any]) -> Any:
        kind = ir.FunctionType(self.vector, [self.vector] * len(arguments))
        return b.call(cgutils.get_or_insert_function(b.module, kind, f"{name}.v{self.width}f32"), arguments)

    def _rounded(self, b: Any, vector: Any) -> Any:
        bits = b.bitcast(vector, self.words)
        odd = b.and_(b.lshr(bits, self._all(16)), self._all(1))
        return b.add(bits, b.add(odd, self._all(0x7FFF)))

    def _all(self, value: int) -> Any:
        return ir.Constant(self.words, [value] * self.width)


def dot_products(
    b: Any, rows: Rows, group: int, keys: Any, queries: Any, scores: Any, number: Any, stride: Any
) -> None:
    """scores[g, j] = keys[j] . queries[g] for the first `number` keys; `stride` is the length of a row of scores.

    All arguments but the first three are addresses and integers of 64 bits. Keys are taken TOGETHER at a time, so that
    the sums over their vectors form one vector; the remaining keys are summed one by one.
    """
    loaded = [rows.load(b, b.add(queries, ADDRESS(g * rows.num_bytes))) for g in range(group)]

    def products(j: Any) -> list[Any]:
        """For each query a vector whose sum is its product with key j."""
        address = b.add(keys, b.mul(j, ADDRESS(rows.num_bytes)))
        rows.prefetch(b, b.add(address, ADDRESS(AHEAD * rows.num_bytes)))
        key = rows.load(b, address)
        totals = []
        for query in loaded:
            total = b.fmul(key[0], query[0])
            for x, y in zip(key[1:], query[1:], strict=True):
                total = rows.plus_product(b, total, x, y)
            totals.append(total)
        return totals

    blocks = b.udiv(number, ADDRESS(TOGETHER)) if rows.width >= TOGETHER else ADDRESS(0)
    with cgutils.for_range(b, blocks) as loop:
        first = b.mul(loop.index, ADDRESS(TOGETHER))
        by_key = [products(b.add(first, ADDRESS(i))) for i in range(TOGETHER)] if rows.width >= TOGETHER else []
        for g, totals in enumerate(zip(*by_key, strict=True)):
            sums = sums_of(b, totals)
            b.store(sums, b.bitcast(_place(b, scores, g, stride, first), sums.type.as_pointer()), align=4)
    with cgutils.for_range_slice(b, b.mul(blocks, ADDRESS(TOGETHER)), number, ADDRESS(1)) as (j, _):
        for g, total in enumerate(products(j)):
            b.store(rows.sum(b, total), _place(b, scores, g, stride, j))


def sums_of(b: Any, vectors: Sequence[Any]) -> Any:
    """The sums of TOGETHER vectors as one vector, in their order; each has TOGETHER numbers or twice as many."""
    halves = range(TOGETHER), range(TOGETHER, 2 * TOGETHER)
    if vectors[0].type.count > TOGETHER:
        vectors = [b.fadd(*(_picked(b, x, x, half) for half in halves)) for x in vectors]
    # First neighbours within lanes of four numbers, which processors shuffle at no cost, then the two lanes.
    for even, odd in (WITHIN_LANES, WITHIN_LANES, ACROSS_LANES):
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [b.fadd(_picked(b, x, y, even), _picked(b, x, y, odd)) for x, y in pairs]
    return vectors[0]


def softmax(b: Any, rows: Rows, scores: Any, number: Any, scale: Any) -> tuple[Any, Any]:
    """Turn `number` times `rows.size` scores x into weights exp((x - the largest) * scale): the largest, their sum.

    The sum is not a number if a score is not a number or is plus infinity.
    """
    largest = highest(b, rows, scores, number)
    origin, factor = rows.repeated(b, largest), rows.repeated(b, scale)
    place = cgutils.alloca_once(b, rows.vector)
    b.store(rows.all(0.0), place)
    with over_rows(b, rows, number) as offset:
        address = b.add(scores, offset)
        weights = [rows.exp(b, b.fmul(b.fsub(x, origin), factor)) for x in rows.load(b, address)]
        rows.store(b, address, weights)
        for part in weights:
            b.store(b.fadd(b.load(place), part), place)
    return largest, rows.sum(b, b.load(place))


def weighted_sums(
    b: Any, rows: Rows, group: int, values: Any, weights: Any, number: Any, stride: Any
) -> list[list[Any]]:
    """The sum over j of weights[g, j] * values[j] for each g, as vectors."""
    totals = [[cgutils.alloca_once(b, rows.vector) for _ in range(rows.number)] for _ in range(group)]
    for places in totals:
        for place in places:
            b.store(rows.all(0.0), place)
    with cgutils.for_range(b, number) as loop:
        address = b.add(values, b.mul(loop.index, ADDRESS(rows.num_bytes)))
        rows.prefetch(b, b.add(address, ADDRESS(AHEAD * rows.num_bytes)))
        value = rows.load(b, address)
        for g, places in enumerate(totals):
            weight = rows.repeated(b, b.load(_place(b, weights, g, stride, loop.index)))
            for x, place in zip(value, places, strict=True):
                b.store(rows.plus_product(b, b.load(place), weight, x), place)
    return [[b.load(place) for place in places] for places in totals]


def rms_norm(b: Any, rows: Rows, x: Any, weight: Any, out: Any, number: Any, epsilon: Any) -> None:
    """out = weight * x / sqrt(mean(x^2) + epsilon) for a line of `number` times `rows.size` numbers.

    Rounded where LlamaRMSNorm rounds: before the weight, and at the end.
    """
    totals = [cgutils.alloca_once(b, rows.vector) for _ in range(rows.number)]
    for place in totals:
        b.store(rows.all(0.0), place)
    with over_rows(b, rows, number) as offset:
        for part, place in zip(rows.load(b, b.add(x, offset)), totals, strict=True):
            b.store(rows.plus_product(b, b.load(place), part, part), place)
    scale = rows.repeated(b, inverse_root(b, mean_of(b, rows, totals, number), epsilon))
    with over_rows(b, rows, number) as offset:
        parts = zip(rows.load(b, b.add(x, offset)), rows.load(b, b.add(weight, offset)), strict=True)
        products = [b.fmul(w, rows.as_stored(b, b.fmul(part, scale))) for part, w in parts]
        rows.store(b, b.add(out, offset), products)


def mean_of(b: Any, rows: Rows, totals: Sequence[Any], number: Any) -> Any:
    """The sum over the vectors at these places, divided by `number` times `rows.size`."""
    vector = b.load(totals[0])
    for place in totals[1:]:
        vector = b.fadd(vector, b.load(place))
    return b.fdiv(rows.sum(b, vector), b.uitofp(b.mul(number, ADDRESS(rows.size)), FLOAT))


def inverse_root(b: Any, mean: Any, epsilon: Any) -> Any:
    """1 / sqrt(mean + epsilon)."""
    root = cgutils.get_or_insert_function(b.module, ir.FunctionType(FLOAT, [FLOAT]), "llvm.sqrt.f32")
    return b.fdiv(ir.Constant(FLOAT, 1.0), b.call(root, [b.fadd(mean, epsilon)]))


def silu_product(b: Any, rows: Rows, gate: Any, up: Any, out: Any, number: Any) -> None:
    """out = gate / (1 + exp(-gate)) * up for lines of `number` times `rows.size` numbers; silu is rounded first."""
    with over_rows(b, rows, number) as offset:
        products = []
        for g, u in zip(rows.load(b, b.add(gate, offset)), rows.load(b, b.add(up, offset)), strict=True):
            minus = b.fsub(rows.all(0.0), g)
            silu = b.fdiv(g, b.fadd(rows.all(1.0), rows.exp(b, minus)))
            products.append(b.fmul(rows.as_stored(b, silu), u))
        rows.store(b, b.add(out, offset), products)


def rotated(b: Any, rows: Rows, x: Any, cos: Any, sin: Any, out: Any) -> None:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864) of a head of two rows: each number with the one at its
    place in the other row. Rounded where transformers rounds: both products, and their sum."""
    second = ADDRESS(rows.num_bytes)
    factors = list(zip(rows.load(b, cos), rows.load(b, sin), strict=True))
    left, right = rows.load(b, x), rows.load(b, b.add(x, second))

    def product(u: Any, v: Any) -> Any:
        return rows.as_stored(b, b.fmul(u, v))

    pairs = list(zip(left, right, factors, strict=True))
    rows.store(b, out, [b.fsub(product(u, c), product(v, s)) for u, v, (c, s) in pairs])
    rows.store(b, b.add(out, second), [b.fadd(product(v, c), product(u, s)) for u, v, (c, s) in pairs])


def highest(b: Any, rows: Rows, x: Any, number: Any) -> Any:
    """The largest of `number` times `rows.size` numbers."""
    place = cgutils.alloca_once(b, rows.vector)
    b.store(rows.all(float("-inf")), place)
    with over_rows(b, rows, number) as offset:
        for part in rows.load(b, b.add(x, offset)):
            b.store(rows.larger(b, b.load(place), part), place)
    kind = ir.FunctionType(FLOAT, [rows.vector])
    function = cgutils.get_or_insert_function(b.module, kind, f"llvm.vector.reduce.fmax.v{rows.width}f32")
    return b.call(function, [b.load(place)])


def sum_of_exp(b: Any, rows: Rows, x: Any, number: Any, origin: Any) -> Any:
    """The sum of exp(x - origin) over `number` times `rows.size` numbers; not a number if one of them is not."""
    place = cgutils.alloca_once(b, rows.vector)
    b.store(rows.all(0.0), place)
    origins = rows.repeated(b, origin)
    with over_rows(b, rows, number) as offset:
        for part in rows.load(b, b.add(x, offset)):
            b.store(b.fadd(b.load(place), rows.exp(b, b.fsub(part, origins))), place)
    return rows.sum(b, b.load(place))


@contextmanager
def over_rows(b: Any, rows: Rows, number: Any) -> Iterator[Any]:
    """A loop over `number` rows that follow each other in memory: the offset of each."""
    with cgutils.for_range(b, number) as loop:
        yield b.mul(loop.index, ADDRESS(rows.num_bytes))


def _picked(b: Any, x: Any, y: Any, places: Sequence[int]) -> Any:
    """The numbers at these places of x followed by y."""
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(INT, len(places)), list(places)))


def _place(b: Any, base: Any, row: int, stride: Any, column: Any) -> Any:
    """Pointer to the float32 [row, column] of a table with `stride` columns."""
    offset = b.mul(ADDRESS(4), b.add(b.mul(ADDRESS(row), stride), column))
    return b.inttoptr(b.add(base, offset), FLOAT.as_pointer())


def _pointer(b: Any, address: Any, offset: int, kind: Any) -> Any:
    return b.inttoptr(b.add(address, ADDRESS(offset)), kind.as_pointer())
