"""Data-sheet figures of accelerators: memory, peak FLOP/s and bandwidths.

A machine's name is `<chip>:<shape>`. For TPUs the shape is the slice's topology, such as `v5e:4x4` or
`v5p:2x2x4`. For GPUs it is the number of GPUs, such as `h100:8` or `rtx4090:1`.
"""

import dataclasses
import math
import re

from muskie_jax.checks import suggest
from muskie_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """An accelerator.

    Attributes:
      name: JAX's `device_kind` for TPUs; for GPUs, the words of `device_kind` that identify the chip.
      memory: capacity of HBM or GDDR memory, GiB.
      flops: peak dense bfloat16 FLOP/s with float32 accumulation; float16 for chips without bfloat16.
      bandwidth: bandwidth of that memory, bytes per second.
      interconnect: send bandwidth to other chips of the slice or node, bytes per second. Data sheets list
        twice this figure, the sum of sending and receiving.
      topology: number of dimensions of a TPU slice's shape; 0 for GPUs.
      has_bfloat16: whether the matrix units multiply bfloat16.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    interconnect: float
    topology: int = 0
    has_bfloat16: bool = True

    @property
    def is_tpu(self) -> bool:
        return self.topology > 0


# Sources: NVIDIA's data sheet of each GPU, without sparsity. Data sheets of GeForce and RTX cards state
# FLOP/s with sparsity or float16 accumulation. Theirs are from the whitepapers of their architectures
# (GA102, Ada, RTX Blackwell). Interconnect: NVLink, or the card's PCIe slot (x16: 16, 32 or 64 GB/s for
# PCIe 3, 4 or 5). NVLink bridges, which join only two cards, do not count. TPUs: each version's page at
# cloud.google.com/tpu/docs.
CHIPS = {
    "t4": Chip("T4", 16, 65e12, 320e9, 16e9, has_bfloat16=False),
    "v100": Chip("V100-SXM2-16GB", 16, 125e12, 900e9, 150e9, has_bfloat16=False),
    "v100-32gb": Chip("V100-SXM2-32GB", 32, 125e12, 900e9, 150e9, has_bfloat16=False),
    "a10": Chip("A10", 24, 125e12, 600e9, 32e9),
    "a10g": Chip("A10G", 24, 70e12, 600e9, 32e9),
    "a100": Chip("A100", 80, 312e12, 2.039e12, 300e9),
    "a5000": Chip("RTX A5000", 24, 111.1e12, 768e9, 32e9),
    "a6000": Chip("RTX A6000", 48, 154.8e12, 768e9, 32e9),
    "rtx3090": Chip("RTX 3090", 24, 71e12, 936e9, 32e9),
    "rtx4090": Chip("RTX 4090", 24, 165.2e12, 1.008e12, 32e9),
    "rtx5090": Chip("RTX 5090", 32, 209.5e12, 1.792e12, 64e9),
    "rtx6000ada": Chip("RTX 6000 Ada", 48, 364.2e12, 960e9, 32e9),
    "l4": Chip("L4", 24, 121e12, 300e9, 32e9),
    "l40s": Chip("L40S", 48, 362e12, 864e9, 32e9),
    "h20": Chip("H20", 96, 148e12, 4e12, 450e9),
    "h100": Chip("H100", 80, 989e12, 3.35e12, 450e9),
    "gh200": Chip("GH200", 96, 989e12, 4e12, 450e9),
    "h200": Chip("H200", 141e9 / GIB, 989e12, 4.8e12, 450e9),
    "b200": Chip("B200", 180, 2250e12, 7.7e12, 900e9),
    "gb200": Chip("GB200", 186e9 / GIB, 2500e12, 8e12, 900e9),
    "v4": Chip("TPU v4", 32, 275e12, 1.2e12, 150e9, topology=3),
    "v5e": Chip("TPU v5 lite", 16, 197e12, 819e9, 200e9, topology=2),
    "v5p": Chip("TPU v5", 95, 459e12, 2.765e12, 600e9, topology=3),
    "v6e": Chip("TPU v6 lite", 32, 918e12, 1.638e12, 400e9, topology=2),
    # Figures of one JAX device, which is half a chip.
    "tpu7x": Chip("TPU7x", 96, 1153.5e12, 3.69e12, 300e9, topology=3),
}
OTHER_NAMES = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}
NODE = 8  # number of GPUs per node, which `interconnect` connects
# TPU v4: a device is half a chip in its compile-only topology, but a full chip in a real slice.
NOT_PLANNABLE = ("v4", "tpu7x", "gb200")
PLANNABLE = tuple(name for name in CHIPS if name not in NOT_PLANNABLE)
# Words after a GPU's name that make it another GPU: "RTX 4090 Laptop GPU".
OTHER_MODELS = r" Ti\b| D\b| SUPER\b| Laptop\b| Max-Q\b"


@dataclasses.dataclass(frozen=True)
class Machine:
    """A TPU slice, or a node of GPUs: `chips` connected chips of one kind."""

    name: str
    chip: Chip
    chips: int


def find_chip(device_kind: str) -> Chip | None:
    """Returns the chip with JAX's `device_kind`, or None if the table does not list it, as for CPUs."""
    kind = OTHER_NAMES.get(device_kind, device_kind)
    for chip in CHIPS.values():
        # A GPU's device_kind also has the vendor, socket or memory: "NVIDIA A100-SXM4-80GB".
        pattern = rf"(?<![\w-]){chip.name}(?!\w|{OTHER_MODELS})"
        if kind == chip.name or (not chip.is_tpu and re.search(pattern, kind)):
            return chip
    return None


def parse_machine(text: str) -> Machine:
    """Parses a machine's name, such as `v5e:4x4` or `h100:8`.

    Raises:
      UserError: for an unknown chip, or a shape that does not suit the chip; lists examples.
    """
    name, _, shape = str(text).partition(":")
    known = "use a chip and its shape, such as v5e:4x4, v5p:2x2x4, h100:8 or rtx4090:1"
    if name not in PLANNABLE:
        raise UserError(
            f"config.plan.machine={text!r}: unknown chip {name!r}{suggest(name, PLANNABLE)}; {known}"
        )
    chip = CHIPS[name]
    if not re.fullmatch("x".join([r"[1-9]\d*"] * (chip.topology or 1)), shape):
        kind = f"{chip.topology} lengths joined by x" if chip.is_tpu else "the number of GPUs"
        raise UserError(f"config.plan.machine={text!r}: {name} needs {kind}; {known}")
    chips = math.prod(map(int, shape.split("x")))
    if not chip.is_tpu and chips > NODE:
        raise UserError(
            f"config.plan.machine={text!r}: a plan covers the GPUs of one node; use {name}:{NODE} at most"
        )
    return Machine(text, chip, chips)
