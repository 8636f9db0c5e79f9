"""Measures a composed roofline: the shortest possible time of a training step on the local device.

Every matrix product of the step is timed alone, at its own shape. Attention is timed forward and backward,
with the kernel that the network uses. The sum of these times is the composed roofline. A step would take
this time if norms, activations, the loss, the optimizer and everything between products cost nothing.
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
from muskie_jax.models.muskie import CHANNELS, Muskie

# Copies of an operation in a timed program. Each has its own inputs, so that XLA cannot merge them.
COPIES = 3
RUNS = 8  # calls of the program per timing
TIMINGS = 3  # timings per operation; the fastest counts


class Product(NamedTuple):
    """A matrix product (rows, inner) @ (inner, columns), and its count in a forward pass."""

    rows: int
    inner: int
    columns: int
    count: int
    needs_input_gradient: bool = True


def forward_products(model: Muskie, bucket: Bucket, groups: int) -> list[Product]:
    """Returns the matrix products of a forward pass of `groups` groups, except attention's."""
    grid_rows, grid_columns = bucket.grid(model.patch)
    patches = groups * bucket.views * grid_rows * grid_columns
    tokens = patches + groups * bucket.views * model.registers
    width, pixels = model.width, CHANNELS * model.patch**2
    layers = 2 * model.depth
    return [
        Product(patches, pixels, width, 1, needs_input_gradient=False),
        Product(tokens, width, 3 * width, layers),
        Product(tokens, width, width, layers),
        Product(tokens, width, 4 * width, layers),
        Product(tokens, 4 * width, width, layers),
        Product(patches, width, 2 * pixels, 1),
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
    """A function to time, its input shapes, the FLOPs of a call, and its count in a training step."""

    function: Callable[..., object]
    shapes: Sequence[tuple[int, ...]]
    flops: float
    count: int


def composed_roofline(model: Muskie, bucket: Bucket, groups: int) -> Roofline:
    """Measures the roofline of a step of `groups` groups on the first device."""
    products, attentions = operations(model, bucket, groups)
    seconds = _measure([*products, *attentions], model.dtype)
    total = lambda operations, times: sum(op.count * t for op, t in zip(operations, times))
    split = len(products)
    return Roofline(
        total(products, seconds[:split]),
        sum(op.count * op.flops for op in products),
        total(attentions, seconds[split:]),
        sum(op.count * op.flops for op in attentions),
    )


def operations(model: Muskie, bucket: Bucket, groups: int) -> tuple[list[_Operation], list[_Operation]]:
    """Returns the matrix products and the attention of a training step, forward and backward."""
    products = []
    for product in forward_products(model, bucket, groups):
        rows, inner, columns, count, needs_input_gradient = product
        x, kernel, y = (rows, inner), (inner, columns), (rows, columns)
        flops = 2.0 * rows * inner * columns
        products.append(_Operation(jnp.matmul, (x, kernel), flops, count))
        products.append(_Operation(lambda x, dy: x.T @ dy, (x, y), flops, count))
        if needs_input_gradient:
            products.append(_Operation(lambda dy, kernel: dy @ kernel.T, (y, kernel), flops, count))
    grid_rows, grid_columns = bucket.grid(model.patch)
    frame_tokens = grid_rows * grid_columns + model.registers
    group_tokens = bucket.views * frame_tokens
    frame = _attention(model, groups * bucket.views, frame_tokens)
    return products, [frame, _attention(model, groups, group_tokens)]


def _attention(model: Muskie, sequences: int, tokens: int) -> _Operation:
    """Returns the operation of attention: 2 products forward, and 5 backward with recomputed weights."""
    attend = dataclasses.replace(model.attention, mesh=None)
    head_size = model.width // model.heads
    shape = (sequences, 1, tokens, model.heads, head_size)

    def forward_backward(query, key, value, gradient):
        out, pull = jax.vjp(lambda *qkv: attend(*qkv, across_views=False), query, key, value)
        return out, pull(gradient)

    flops = 7 * 2.0 * sequences * tokens**2 * model.width
    return _Operation(forward_backward, [shape] * 4, flops, model.depth)


def _measure(operations: Sequence[_Operation], dtype: jnp.dtype) -> list[float]:
    """Returns the seconds of one call of each operation.

    Each operation is compiled into a program that calls it COPIES times. The program is timed TIMINGS
    times, RUNS calls each; the fastest timing counts.
    """

    def compile_one(operation: _Operation) -> jax.stages.Compiled:
        inputs = [[jax.ShapeDtypeStruct(shape, dtype) for shape in operation.shapes] for _ in range(COPIES)]
        return jax.jit(lambda all: [operation.function(*one) for one in all]).lower(inputs).compile()

    programs = [compile_one(operation) for operation in operations]
    seconds = []
    for operation, program in zip(operations, programs):
        run = functools.partial(program, _random(operation.shapes, dtype))
        seconds.append(best_time(run, RUNS, TIMINGS) / COPIES)
    return seconds


def _random(shapes: Sequence[tuple[int, ...]], dtype: jnp.dtype) -> list[list[Array]]:
    """Returns random inputs for COPIES calls. GPUs would be unrealistically fast on constant inputs."""
    keys = iter(jax.random.split(jax.random.key(0), COPIES * len(shapes)))
    return [[jax.random.normal(next(keys), shape, dtype) for shape in shapes] for _ in range(COPIES)]


def best_time(run: Callable[[], object], calls: int, repeats: int) -> float:
    """Returns the seconds per call of a function that returns JAX arrays, in the fastest of `repeats` runs.

    Each run calls the function `calls` times and waits for the last result, which stays on the device. Two
    warm-up calls come first.
    """
    for _ in range(2):
        jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        result, start = None, time.perf_counter()
        for _ in range(calls):
            result = run()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - start) / calls)
    return min(times)
