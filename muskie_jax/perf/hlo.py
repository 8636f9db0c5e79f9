"""Reads what a compiled program moves out of XLA's text of it.

XLA's own cost analysis says nothing of collectives, counts what stays in a TPU's vector memory like what
goes to main memory, and counts the body of a loop once. Here instructions are followed from the entry,
those of a loop as often as it runs.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator

from muskie_jax.errors import UserError

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Instructions that name data and move none, or whose moving is counted at the part that starts them.
SILENT = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"),
    *("after-all", "partition-id", "iota", "optimization-barrier", "add-dependency"),
}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
# Devices that take part in a collective: listed, {{0,2},{1,3}}; counted, [groups, size]<=[...]; or axes of
# a mesh, of which 'data':(2)4 is the part of size 4 after one of size 2.
_LISTED = re.compile(r"replica_groups=\{(?:\{([\d,]+(?:\},\{[\d,]+)*)\})?\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_AXIS = r"'[^']+'(?::\(\d+\)\d+)?"
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((?:[^()]|\([^()]*\))*\))?"
    rf" \{{({_AXIS}(?:,\s*{_AXIS})*)\}}"
)
_CALLED = re.compile(r"(?:calls|body|to_apply|branch_computations)=\{?%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program: `name = result op(operands), attributes`."""

    name: str
    result: str
    op: str
    operands: str
    attributes: str

    def inputs(self) -> list[str]:
        """The names of the instructions whose results it uses."""
        return re.findall(r"%([\w.\-]+)", self.operands)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one device moves while a program runs once.

    Attributes:
      memory: bytes read from and written to main memory.
      sent: kind of collective -> bytes sent to other devices, by ring algorithms.
    """

    memory: float
    sent: dict[str, float]


def traffic(text: str, devices: int) -> Traffic:
    """Counts the traffic of a compiled program, given as text, that runs on so many devices.

    Raises:
      UserError: if it cannot tell which devices take part in a collective.
    """
    computations, entry = _parse(text)
    memory, sent = 0.0, defaultdict(float)
    for name, times, inside_fusion in _visits(computations, entry):
        instructions = computations[name]
        results = {i.name: i.result for i in instructions}
        for each in instructions:
            kind = each.op.removesuffix("-start")
            if kind in COLLECTIVES:
                # On TPUs an all-reduce of which each device keeps a part is fused into one instruction.
                kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else kind
                sent[kind] += times * _sent(kind, each, results, devices)
            if not inside_fusion:
                memory += times * _memory(each, results, times)
    return Traffic(memory, dict(sent))


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
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
    """The type at the start of an instruction, which may be a tuple, and what follows it."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if letter == " " and depth == 0:
            return text[:index], text[index + 1 :]
    return text, ""


def _visits(computations, entry: str) -> Iterator[tuple[str, float, bool]]:
    """Every computation that runs, how often, and whether as the inside of one instruction."""
    todo = [(entry, 1.0, False)]
    while todo:
        name, times, inside = todo.pop()
        yield name, times, inside
        for each in computations[name]:
            for called in _CALLED.findall(each.attributes):
                if called not in computations or _repeats(each, called):
                    continue
                if each.op == "while":
                    todo.append((called, times * _trips(each, computations), inside))
                else:
                    todo.append((called, times, inside or each.op not in ("call", "conditional")))


def _repeats(each: Instruction, called: str) -> bool:
    """Whether it repeats a collective that was counted where it starts.

    On TPUs a fusion `async-collective-start` begins one, fusions beside it do some of it, and
    `async-collective-done` ends it; the computation of each has the whole collective in it.
    """
    return each.name.startswith("async-collective-done") or called.startswith("async_collective_fusion")


def _trips(loop: Instruction, computations) -> int:
    """How often a loop runs: what XLA noted, or the largest constant that its condition has."""
    if noted := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)[1]
    numbers = [i.operands for i in computations[condition] if i.op == "constant"]
    return max((int(number) for number in numbers if number.isdigit()), default=1)


def _size(dtype: str, shape: str) -> float:
    number = re.search(r"\d+", dtype)
    size = BYTES.get(dtype, int(number[0]) / 8 if number else 0)
    return size * math.prod(int(d) for d in shape.split(",") if d)


def _arrays(result: str) -> list[tuple[str, str, str]]:
    return [(dtype, shape, layout or "") for dtype, shape, layout in _ARRAY.findall(result)]


def _memory(each: Instruction, results: dict[str, str], times: float) -> float:
    """Bytes of an instruction's results and operands that lie in main memory, memory space 0."""
    if each.op in SILENT or each.op.endswith("-done"):
        return 0.0
    if each.op == "slice-start":  # ((what is sliced), slice, context): only the slice is read
        return _size(*_arrays(each.result.rpartition("), ")[2])[0][:2])
    if each.op.endswith("-start") and each.op != "all-reduce-start":  # the result repeats the operands
        types = [each.result]
    else:
        types = [each.result, *(results.get(name, "") for name in each.inputs())]
    total = 0.0
    for dtype, shape, layout in (array for text in types for array in _arrays(text)):
        if re.search(r"S\(\d", layout):  # another memory space: on the chip
            continue
        # A loop over blocks reads and writes one slice, per turn, of what is stacked for all blocks.
        is_stacked = times > 1 and shape.split(",")[0] == str(int(times))
        total += _size(dtype, shape) / (times if is_stacked else 1)
    return total


def _sent(kind: str, each: Instruction, results: dict[str, str], devices: int) -> float:
    """Bytes that one device sends in a collective, by the usual ring algorithms."""
    result = each.result
    if each.op.endswith("-start") and kind != "all-reduce":  # (operands, results, ...)
        result = _elements(result)[1]
    size = sum(_size(d, s) for d, s, _ in _arrays(result))
    if kind == "collective-permute":
        return size
    group = _group_size(each, devices)
    share = (group - 1) / group
    if kind == "all-reduce":
        return 2 * share * size
    if kind == "reduce-scatter" and each.op.startswith("reduce-scatter"):
        return share * size * group  # the result is one part
    return share * size


def _elements(result: str) -> list[str]:
    """The types in a tuple, which may be tuples themselves."""
    elements, depth = [""], 0
    for letter in result[1:-1]:
        depth += (letter in "({[") - (letter in ")}]")
        if letter == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += letter
    return elements


def _group_size(each: Instruction, devices: int) -> int:
    """How many devices take part, of `replica_groups` in any of the forms XLA writes.

    Raises:
      UserError: for any other form, of which nothing may be assumed.
    """
    if found := _LISTED.search(each.attributes):  # {} are all devices
        return max(len(group.split(",")) for group in found[1].split("},{")) if found[1] else devices
    if found := _COUNTED.search(each.attributes):
        return int(found[1])
    if found := _MESH.search(each.attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    raise UserError(
        f"the plan cannot read which devices take part in {each.op} {each.name}, as this jax writes it; "
        f"install the jax of constraints.txt, or report: {each.attributes[:200].strip(', ')}"
    )
