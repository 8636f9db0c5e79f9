"""Estimates memory and network traffic from optimised HLO.

XLA's own cost analysis leaves out collectives, counts arrays in a TPU's on-chip memory as main-memory
traffic, and counts the body of a loop once. This module follows the instructions from the entry
computation instead, and weights a loop's body by its trip count.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from muskie_jax.errors import UserError

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Instructions without traffic of their own. Traffic of loops and calls is counted in what they call.
NO_TRAFFIC = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"),
    *("after-all", "partition-id", "iota", "optimization-barrier", "add-dependency"),
}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
# HLO has three forms for the devices of a collective: lists, {{0,2},{1,3}}; iota, [groups, size]<=[...];
# and mesh axes, where 'data':(2)4 is the sub-axis of size 4 after one of size 2.
_LISTED = re.compile(r"replica_groups=\{(?:\{([\d,]+(?:\},\{[\d,]+)*)\})?\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_AXIS = r"'[^']+'(?::\(\d+\)\d+)?"
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((?:[^()]|\([^()]*\))*\))?"
    rf" \{{({_AXIS}(?:,\s*{_AXIS})*)\}}"
)
_CALLED = re.compile(r"(?:calls|body|to_apply|branch_computations)=\{?%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An HLO instruction: `name = result op(operands), attributes`."""

    name: str
    result: str
    op: str
    operands: str
    attributes: str

    def inputs(self) -> list[str]:
        """Returns the names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.operands)


Computations = Mapping[str, list[Instruction]]


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Traffic of one device during one run of a program.

    Attributes:
      memory: bytes read from and written to main memory; None if not counted.
      sent: kind of collective -> bytes sent to other devices, by ring algorithms.
    """

    memory: float | None
    sent: dict[str, float]


def estimate_traffic(text: str | None, devices: int) -> Traffic:
    """Estimates the traffic of a compiled program.

    Args:
      text: optimised HLO, from `jax.stages.Compiled.as_text`.
      devices: number of devices on which the program runs.

    Raises:
      UserError: if the devices of a collective cannot be parsed.
    """
    assert text is not None, "every backend of JAX prints its programs"
    computations, entry = _parse(text)
    memory, sent = 0.0, defaultdict(float)
    for name, runs, is_fused in _executed(computations, entry):
        instructions = computations[name]
        results = {i.name: i.result for i in instructions}
        for instruction in instructions:
            kind = instruction.op.removesuffix("-start")
            if kind in COLLECTIVES:
                # TPUs fuse an all-reduce with the slice that each device keeps: a reduce-scatter.
                kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else kind
                sent[kind] += runs * _sent_bytes(kind, instruction, devices)
            if not is_fused:
                memory += runs * _memory_bytes(instruction, results, runs)
    return Traffic(memory, dict(sent))


def _parse(text: str) -> tuple[Computations, str]:
    """Returns the instructions of each computation, and the name of the entry computation."""
    computations: dict[str, list[Instruction]] = {}
    current, entry = [], ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            current = computations.setdefault(start[2], [])
            entry = start[2] if start[1] else entry
        elif found := _INSTRUCTION.match(line):
            result, rest = _split_result(found[2])
            op, _, rest = rest.partition("(")
            operands, _, attributes = rest.partition(")")
            current.append(Instruction(found[1], result, op.strip(), operands, attributes))
    return computations, entry


def _split_result(text: str) -> tuple[str, str]:
    """Splits an instruction's text into its result type, which may be a tuple, and the rest."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if letter == " " and depth == 0:
            return text[:index], text[index + 1 :]
    return text, ""


def _executed(computations: Computations, entry: str) -> Iterator[tuple[str, float, bool]]:
    """Yields each executed computation, its number of runs, and whether it is fused into an instruction."""
    todo = [(entry, 1.0, False)]
    while todo:
        name, runs, is_fused = todo.pop()
        yield name, runs, is_fused
        for caller in computations[name]:
            for called in _CALLED.findall(caller.attributes):
                if called not in computations or _repeats_collective(caller, called):
                    continue
                if caller.op == "while":
                    todo.append((called, runs * _trip_count(caller, computations), is_fused))
                else:
                    todo.append((called, runs, is_fused or caller.op not in ("call", "conditional")))


def _repeats_collective(caller: Instruction, called: str) -> bool:
    """Returns whether `called` repeats a collective that is counted at its start.

    On TPUs a fusion `async-collective-start` starts a collective, further fusions run parts of it, and
    `async-collective-done` ends it. The computation of each fusion contains the entire collective.
    """
    return caller.name.startswith("async-collective-done") or called.startswith("async_collective_fusion")


def _trip_count(loop: Instruction, computations: Computations) -> int:
    """Returns a loop's trip count, from XLA's annotation or the largest constant in the condition."""
    if noted := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
    assert condition, f"a while instruction has a condition: {loop.name}"
    constants = [i.operands for i in computations[condition[1]] if i.op == "constant"]
    return max((int(constant) for constant in constants if constant.isdigit()), default=1)


def _size(dtype: str, shape: str) -> float:
    """Returns the bytes of an array, given for example "f32" and "8,128"."""
    bits = re.search(r"\d+", dtype)
    itemsize = BYTES.get(dtype, int(bits[0]) / 8 if bits else 0)
    return itemsize * math.prod(int(d) for d in shape.split(",") if d)


def _arrays(result: str) -> list[tuple[str, str, str]]:
    """Returns (type, shape, layout) of each array in a result type."""
    return [(dtype, shape, layout or "") for dtype, shape, layout in _ARRAY.findall(result)]


def _memory_bytes(instruction: Instruction, results: Mapping[str, str], runs: float) -> float:
    """Returns the bytes of an instruction's results and operands in main memory (memory space 0)."""
    op = instruction.op
    if op in NO_TRAFFIC or op.endswith("-done"):
        return 0.0
    if op == "slice-start":  # ((sliced array), slice, context): only the slice is read
        return _size(*_arrays(instruction.result.rpartition("), ")[2])[0][:2])
    types = [instruction.result]
    result_repeats_operands = op.endswith("-start") and op != "all-reduce-start"
    if not result_repeats_operands:
        types += [results.get(name, "") for name in instruction.inputs()]
    total = 0.0
    for dtype, shape, layout in (array for text in types for array in _arrays(text)):
        is_on_chip = re.search(r"S\(\d", layout)  # a memory space other than 0
        if is_on_chip:
            continue
        # Arrays stacked over all blocks: a loop reads or writes one slice of them per iteration.
        is_stacked = runs > 1 and shape.split(",")[0] == str(int(runs))
        total += _size(dtype, shape) / (runs if is_stacked else 1)
    return total


def _sent_bytes(kind: str, instruction: Instruction, devices: int) -> float:
    """Returns the bytes that one device sends in a collective, by the usual ring algorithms."""
    result = instruction.result
    if instruction.op.endswith("-start") and kind != "all-reduce":  # (operands, results, ...)
        result = _elements(result)[1]
    size = sum(_size(dtype, shape) for dtype, shape, _ in _arrays(result))
    if kind == "collective-permute":
        return size
    group = _group_size(instruction, devices)
    fraction = (group - 1) / group
    if kind == "all-reduce":
        return 2 * fraction * size
    if kind == "reduce-scatter" and instruction.op.startswith("reduce-scatter"):
        return fraction * size * group  # its result is one shard of the array, 1/group of the size
    return fraction * size


def _elements(result: str) -> list[str]:
    """Returns the element types of a tuple type; elements may be tuples themselves."""
    elements, depth = [""], 0
    for letter in result[1:-1]:
        depth += (letter in "({[") - (letter in ")}]")
        if letter == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += letter
    return elements


def _group_size(instruction: Instruction, devices: int) -> int:
    """Returns the number of devices in a collective's group, from `replica_groups`.

    Raises:
      UserError: for an unknown form of `replica_groups`.
    """
    attributes = instruction.attributes
    if found := _LISTED.search(attributes):
        if not found[1]:  # {} means all devices
            return devices
        return max(len(group.split(",")) for group in found[1].split("},{"))
    if found := _IOTA.search(attributes):
        return int(found[1])
    if found := _MESH.search(attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    raise UserError(
        f"cannot parse the devices of {instruction.op} {instruction.name}, whose format is unknown: "
        f"install the jax version of constraints.txt, or report this text: {attributes[:200].strip(', ')}"
    )
