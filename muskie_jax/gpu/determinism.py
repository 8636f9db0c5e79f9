"""Asks XLA for programs that give the same result in every run: `config.deterministic`.

On a GPU, some kernels add numbers in an order that varies, and XLA chooses among kernels by timing them.
With the flag below, XLA uses deterministic kernels only, and takes the first that compiles. cuDNN's
attention then runs its deterministic backward pass. CPUs and TPUs ignore the flag. Sources:
https://openxla.org/xla/determinism and XLA's `autotuner_pass.cc`.
"""

import functools
import os

import jax
from jax._src import xla_bridge  # JAX has no public function that returns whether it has started

from muskie_jax.errors import UserError

FLAG = "--xla_gpu_deterministic_ops"
TRUE = ("", "true", "1")  # values that turn on a flag of XLA


def require_deterministic_programs() -> None:
    """Adds FLAG to the environment variable XLA_FLAGS, so that all later programs are deterministic.

    XLA reads XLA_FLAGS once, when JAX starts its devices, so this must come before any work on devices.
    Other flags in XLA_FLAGS are kept. JAX's cache keeps programs that were compiled with other flags apart.

    Raises:
      UserError: if XLA_FLAGS turns FLAG off, or if JAX has started on a GPU without FLAG.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    _mark_backward_attention()
    given = [flag for flag in flags if flag.partition("=")[0] == FLAG]
    for flag in given:
        if flag.partition("=")[2].lower() not in TRUE:
            raise UserError(
                f"XLA_FLAGS has {flag}, which contradicts config.deterministic=True: remove one of the two"
            )
    if given:
        return
    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = " ".join([*flags, f"{FLAG}=true"])
    elif jax.default_backend() == "gpu":
        raise UserError(
            "config.deterministic=True, but JAX has already started on the GPU: set "
            f"XLA_FLAGS={FLAG}=true before you start the program"
        )


def _mark_backward_attention() -> None:
    """Makes JAX ask for a deterministic algorithm wherever it calls cuDNN's backward attention.

    XLA asks for it too, but only in the first of several equal calls. It then does not find the programs of
    the others, and the first update raises an IndexError (https://github.com/openxla/xla/pull/46500).
    """
    from jax._src.cudnn import fused_attention_stablehlo as cudnn  # private, so only if needed

    original = cudnn.create_dot_product_attention_backend_config_base
    if hasattr(original, "__wrapped__"):  # already done
        return

    @functools.wraps(original)
    def marked(*arguments, **options):
        config = original(*arguments, **options)
        attention = config["cudnn_fmha_backend_config"]
        if "bmm1_grad_gemm1_dot_dimension_numbers" in attention:
            attention["force_deterministic"] = True
        return config

    cudnn.create_dot_product_attention_backend_config_base = marked
