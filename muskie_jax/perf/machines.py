"""What machines can do, from their makers' data sheets: the one table of it.

A machine is written `<chip>:<shape>`: for TPUs the shape is the slice's topology, such as `v5e:4x4` or
`v5p:2x2x4`; for GPUs it is their number, such as `h100:8`.
"""

import dataclasses
import math
import re

from muskie_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      name: what JAX calls it, or whole words of that which no other chip's name has.
      memory: GiB of HBM.
      flops: dense bfloat16 FLOP/s.
      bandwidth: bytes per second from and to HBM.
      interconnect: bytes per second that the chip can send to others of its slice or node; data
        sheets give sending and receiving together.
      topology: for TPUs, the number of the shape's dimensions; 0 for GPUs.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    interconnect: float
    topology: int = 0

    @property
    def is_tpu(self) -> bool:
        return self.topology > 0


# Sources: NVIDIA's data sheets of each GPU (no sparsity; NVLink where there is one, else PCIe 4.0 x16);
# cloud.google.com/tpu/docs, the page of each TPU version.
CHIPS = {
    "a100": Chip("A100", 80, 312e12, 2.039e12, 300e9),
    "h100": Chip("H100", 80, 989e12, 3.35e12, 450e9),
    "h200": Chip("H200", 141e9 / GIB, 989e12, 4.8e12, 450e9),
    "b200": Chip("B200", 180, 2250e12, 7.7e12, 900e9),
    "gb200": Chip("GB200", 186e9 / GIB, 2500e12, 8e12, 900e9),
    "l40s": Chip("L40S", 48, 362e12, 864e9, 32e9),
    "l4": Chip("L4", 24, 121e12, 300e9, 32e9),
    "v4": Chip("TPU v4", 32, 275e12, 1.2e12, 150e9, topology=3),
    "v5e": Chip("TPU v5 lite", 16, 197e12, 819e9, 200e9, topology=2),
    "v5p": Chip("TPU v5", 95, 459e12, 2.765e12, 600e9, topology=3),
    "v6e": Chip("TPU v6 lite", 32, 918e12, 1.638e12, 400e9, topology=2),
    # A JAX device is half of this chip.
    "tpu7x": Chip("TPU7x", 96, 1153.5e12, 3.69e12, 300e9, topology=3),
}
OTHER_NAMES = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}
# TPU v4 is left out: a device of its compile-only topology is half a chip, one of a real slice a chip.
NODE = 8  # GPUs that are connected as `interconnect` says
PLANNABLE = ("a100", "h100", "h200", "b200", "l40s", "v5e", "v5p", "v6e")


@dataclasses.dataclass(frozen=True)
class Machine:
    """Several chips of one kind, connected to each other."""

    name: str
    chip: Chip
    chips: int


def find_chip(device_kind: str) -> Chip | None:
    """The chip that JAX gives a `device_kind`, or None if it is not in the table (a CPU, for one)."""
    kind = OTHER_NAMES.get(device_kind, device_kind)
    for chip in CHIPS.values():
        # Of a GPU JAX says the maker before its name, and the memory or the socket after it.
        if kind == chip.name or (not chip.is_tpu and re.search(rf"(?<![\w-]){chip.name}(?!\w)", kind)):
            return chip
    return None


def parse_machine(text: str) -> Machine:
    """Reads `v5e:4x4` or `h100:8`.

    Raises:
      UserError: for anything else, listing what there is.
    """
    name, _, shape = str(text).partition(":")
    gpus = [f"{chip}:8" for chip in PLANNABLE if not CHIPS[chip].is_tpu]
    tpus = [chip + (":4x4" if CHIPS[chip].topology == 2 else ":2x2x4") for chip in PLANNABLE]
    tpus = [example for example, chip in zip(tpus, PLANNABLE) if CHIPS[chip].is_tpu]
    known = f"write a chip and how many, such as {', '.join(tpus + gpus)}"
    if name not in PLANNABLE:
        raise UserError(f"config.plan.machine={text!r}: {known}")
    chip = CHIPS[name]
    if not re.fullmatch("x".join([r"[1-9]\d*"] * (chip.topology or 1)), shape):
        kind = f"{chip.topology} lengths, joined by x" if chip.is_tpu else "the number of GPUs"
        raise UserError(f"config.plan.machine={text!r}: after {name}: comes {kind}; {known}")
    chips = math.prod(map(int, shape.split("x")))
    if not chip.is_tpu and chips > NODE:
        raise UserError(
            f"config.plan.machine={text!r}: plans are for GPUs of one node, {name}:{NODE} at most"
        )
    return Machine(text, chip, chips)
