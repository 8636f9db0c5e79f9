"""Commands on weights: `python -m muskie_jax.interop <command> --help` tells the flags of each.

export      writes weights as .safetensors or .pth, or as a folder for the Hugging Face hub
import      makes a work directory of weights, to train on from them
push        uploads such a folder to the Hugging Face hub
stablehlo   writes a program for CPUs, GPUs and TPUs that needs no muskie_jax
onnx        writes a program for ONNX runtimes
"""

from muskie_jax.command_line import run_program
from muskie_jax.interop.command import EXPORT, IMPORT, ONNX, PUSH, STABLEHLO

COMMANDS = {"export": EXPORT, "import": IMPORT, "push": PUSH, "stablehlo": STABLEHLO, "onnx": ONNX}


def main(invocation: str = "python -m muskie_jax.interop") -> None:
    """Runs the command of `sys.argv`; messages name the invocation."""
    run_program(invocation, __doc__ or "", COMMANDS)


if __name__ == "__main__":
    main()
