"""Data-sheet figures of accelerators: memory, peak FLOP/s and bandwidths.

A machine's name is `<chip>:<shape>`. For TPUs the shape is the slice's topology, such as `v5e:4x4` or
`v5p:2x2x4`. For GPUs it is the number of GPUs, such as `h100:8`.
"""

import dataclasses
import math
import re

from muskie_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """An accelerator.

    Attributes:
      name: JAX's `device_kind` for TPUs; for GPUs, the words of `device_kind` that identify the chip.
      memory: HBM capacity, GiB.
      flops: peak dense bfloat16 FLOP/s.
      bandwidth: HBM bandwidth, bytes per second.
      interconnect: send bandwidth to other chips of the slice or node, bytes per second. Data sheets list
        twice this figure, the sum of sending and receiving.
      topology: number of dimensions of a TPU slice's shape; 0 for GPUs.
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


# Sources: NVIDIA's data sheet of each GPU (without sparsity; NVLink, or PCIe 4.0 x16 if there is no
# NVLink), and the page of each TPU version at cloud.google.com/tpu/docs.
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
    # Figures of one JAX device, which is half a chip.
    "tpu7x": Chip("TPU7x", 96, 1153.5e12, 3.69e12, 300e9, topology=3),
}
OTHER_NAMES = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}
NODE = 8  # number of GPUs per node, which `interconnect` connects
# Excludes TPU v4: a device is half a chip in its compile-only topology, but a full chip in a real slice.
PLANNABLE = ("a100", "h100", "h200", "b200", "l40s", "v5e", "v5p", "v6e")


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
        if kind == chip.name or (not chip.is_tpu and re.search(rf"(?<![\w-]){chip.name}(?!\w)", kind)):
            return chip
    return None


def parse_machine(text: str) -> Machine:
    """Parses a machine's name, such as `v5e:4x4` or `h100:8`.

    Raises:
      UserError: for an unknown chip, or a shape that does not suit the chip; lists examples.
    """
    name, _, shape = str(text).partition(":")
    gpus = [f"{chip}:8" for chip in PLANNABLE if not CHIPS[chip].is_tpu]
    tpus = [chip + (":4x4" if CHIPS[chip].topology == 2 else ":2x2x4") for chip in PLANNABLE]
    tpus = [example for example, chip in zip(tpus, PLANNABLE) if CHIPS[chip].is_tpu]
    known = f"write a chip and its shape, such as {', '.join(tpus + gpus)}"
    if name not in PLANNABLE:
        raise UserError(f"config.plan.machine={text!r}: {known}")
    chip = CHIPS[name]
    if not re.fullmatch("x".join([r"[1-9]\d*"] * (chip.topology or 1)), shape):
        kind = f"{chip.topology} lengths joined by x" if chip.is_tpu else "the number of GPUs"
        raise UserError(f"config.plan.machine={text!r}: {name}: needs {kind}; {known}")
    chips = math.prod(map(int, shape.split("x")))
    if not chip.is_tpu and chips > NODE:
        raise UserError(
            f"config.plan.machine={text!r}: a plan covers the GPUs of one node; write {name}:{NODE} at most"
        )
    return Machine(text, chip, chips)
