"""Imports and exports weights. `python -m muskie_jax.interop <command> --help` lists a command's flags.

export      writes weights to a .safetensors or .pth file, or to a folder for the Hugging Face hub
import      makes a work directory from weights, to continue training from them
push        uploads an exported folder to the Hugging Face hub
stablehlo   exports a program that JAX runs on CPUs, GPUs and TPUs without muskie_jax
onnx        exports a program for ONNX runtimes
"""

from muskie_jax.command_line import run_program
from muskie_jax.interop.command import EXPORT, IMPORT, ONNX, PUSH, STABLEHLO

COMMANDS = {"export": EXPORT, "import": IMPORT, "push": PUSH, "stablehlo": STABLEHLO, "onnx": ONNX}


def main(invocation: str = "python -m muskie_jax.interop") -> None:
    """Runs the command in `sys.argv`. `invocation` is how messages refer to the program."""
    run_program(invocation, __doc__ or "", COMMANDS)


if __name__ == "__main__":
    main()
