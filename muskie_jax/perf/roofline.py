"""The fastest a training step could be on the device at hand, put together from measured parts.

Every matrix product of the step is timed alone, at its own shape, and so is attention, forward and
backward, with the kernel that the network uses. Their sum is the composed roofline: what a step would
take if norms, activations, the loss, the optimizer and everything between products cost nothing.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from muskie_jax.buckets import Bucket
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import CHANNELS, Muskie

COPIES = 3  # of every operation in a timed program, on inputs of their own: none can be left out
RUNS = 8


class Product(NamedTuple):
    """(rows, inner) @ (inner, columns), and how many a forward pass has of it."""

    rows: int
    inner: int
    columns: int
    count: int
    needs_input_gradient: bool = True


def forward_products(model: Muskie, bucket: Bucket, groups: int, slots: int | None = None) -> list[Product]:
    """The matrix products of a forward pass of `groups` groups, attention's own left out.

    `slots`: of how many patches the last layer and the head compute something; None means all tokens.
    """
    grid_rows, grid_columns = bucket.grid(model.patch)
    patches = groups * bucket.views * grid_rows * grid_columns
    tokens = patches + groups * bucket.views * model.registers
    width, pixels = model.width, CHANNELS * model.patch**2
    layers = 2 * model.depth
    rows = {tokens: layers} if slots is None else {tokens: layers - 1, groups * slots: 1}
    after_attention = ((width, width), (width, 4 * width), (4 * width, width))
    return [
        Product(patches, pixels, width, 1, needs_input_gradient=False),
        Product(tokens, width, 3 * width, layers),
        *(Product(count, *shape, times) for count, times in rows.items() for shape in after_attention),
        Product(patches if slots is None else groups * slots, width, 2 * pixels, 1),
    ]


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds and FLOPs of a training step's matrix products and attention, on one device."""

    product_seconds: float
    product_flops: float
    attention_seconds: float
    attention_flops: float

    @property
    def seconds(self) -> float:
        return self.product_seconds + self.attention_seconds


class _Operation(NamedTuple):
    function: Callable[..., object]
    shapes: Sequence[tuple[int, ...]]
    flops: float
    count: int


def composed_roofline(model: Muskie, bucket: Bucket, groups: int, slots: int | None = None) -> Roofline:
    """Measures it, for a step of `groups` groups on the first device; `slots`: see `forward_products`."""
    products, attentions = operations(model, bucket, groups, slots)
    seconds = _measure([*products, *attentions], model.dtype)
    total = lambda operations, times: sum(op.count * t for op, t in zip(operations, times))
    split = len(products)
    return Roofline(
        total(products, seconds[:split]),
        sum(op.count * op.flops for op in products),
        total(attentions, seconds[split:]),
        sum(op.count * op.flops for op in attentions),
    )


def operations(
    model: Muskie, bucket: Bucket, groups: int, slots: int | None
) -> tuple[list[_Operation], list[_Operation]]:
    """The matrix products and the attentions of a training step, forward and backward."""
    products = []
    for product in forward_products(model, bucket, groups, slots):
        rows, inner, columns, count, needs_input_gradient = product
        x, kernel, y = (rows, inner), (inner, columns), (rows, columns)
        flops = 2.0 * rows * inner * columns
        products.append(_Operation(jnp.matmul, (x, kernel), flops, count))
        products.append(_Operation(lambda x, dy: x.T @ dy, (x, y), flops, count))
        if needs_input_gradient:
            products.append(_Operation(lambda dy, kernel: dy @ kernel.T, (y, kernel), flops, count))
    tokens = model.registers + bucket.grid(model.patch)[0] * bucket.grid(model.patch)[1]
    group = bucket.views * tokens
    queries = {group: model.depth} if slots is None else {group: model.depth - 1, slots: 1}
    inside = _attention(model, groups * bucket.views, tokens, tokens, model.depth)
    across = [_attention(model, groups, count, group, times) for count, times in queries.items()]
    return products, [inside, *across]


def _attention(model: Muskie, sequences: int, queries: int, keys: int, count: int) -> _Operation:
    """Attention of one layer, forward and backward: 2 products forward, 5 back (weights again)."""
    attend = Attention(model.attention.implementation)
    head_size = model.width // model.heads
    of_queries, of_keys = ((sequences, 1, n, model.heads, head_size) for n in (queries, keys))

    def both(query, key, value, gradient):
        out, pull = jax.vjp(lambda *qkv: attend(*qkv, across_views=False), query, key, value)
        return out, pull(gradient)

    flops = 7 * 2.0 * sequences * queries * keys * model.width
    return _Operation(both, [of_queries, of_keys, of_keys, of_queries], flops, count)


def _measure(operations: Sequence[_Operation], dtype: jnp.dtype) -> list[float]:
    """Seconds that one of each operation takes."""

    def compile_one(operation: _Operation):
        inputs = [[jax.ShapeDtypeStruct(shape, dtype) for shape in operation.shapes] for _ in range(COPIES)]
        return jax.jit(lambda all: [operation.function(*one) for one in all]).lower(inputs).compile()

    programs = [compile_one(operation) for operation in operations]
    seconds = []
    for operation, program in zip(operations, programs):
        run = functools.partial(program, _random(operation.shapes, dtype))
        seconds.append(best_time(run, RUNS, 3) / COPIES)
    return seconds


def _random(shapes: Sequence[tuple[int, ...]], dtype: jnp.dtype) -> list[list[Array]]:
    """Inputs of COPIES operations. Of ones and zeros a GPU would compute faster than it can."""
    keys = iter(jax.random.split(jax.random.key(0), COPIES * len(shapes)))
    return [[jax.random.normal(next(keys), shape, dtype) for shape in shapes] for _ in range(COPIES)]


def best_time(run: Callable[[], object], calls: int, repeats: int) -> float:
    """Seconds per call, of `calls` calls waited for together: the best of several repeats."""
    for _ in range(2):
        jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            result = run()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - start) / calls)
    return min(times)
