"""Settings of the job `evaluate`: what is evaluated, on what, and how."""

import re

from ml_collections import ConfigDict

from muskie_jax.checks import is_pair, one_of, require
from muskie_jax.correspondence import PROTOCOLS
from muskie_jax.errors import UserError
from muskie_jax.models.muskie import DTYPES

EVALUATORS = ("correspondence", "reconstruction")
CHECKPOINTS = re.compile(r"last|all|every ([1-9]\d*)")


def default_evaluate() -> ConfigDict:
    """Every setting of config.evaluate, with its default."""
    sweep = ConfigDict()
    sweep.models = ()  # see muskie_jax/evaluators/models.py, such as ("runs/base", "untrained", "still")
    sweep.checkpoints = "last"  # of work directories: "last", "all", or "every 3", each third and the last
    sweep.evaluators = EVALUATORS
    sweep.sizes = ((512, 512),)  # (height, width) of views, each
    sweep.views = (8,)  # of a group, each; of correspondence
    sweep.points = 100  # followed from the first view of a group
    sweep.layers = ()  # whose features and attention are measured, from 1; empty: all
    sweep.protocols = PROTOCOLS  # "targets" is exact; "published" is the paper's, quirks included
    sweep.dtype = "float32"  # of matrix products
    sweep.pictures = 1  # groups of each set that are drawn
    sweep.shard = ""  # "2/4": the second of four parts of the work, the others are done elsewhere
    sweep.reconstruction = ConfigDict()
    sweep.reconstruction.views = (1, 2, 4, 8)  # of a group, each
    sweep.reconstruction.references = (0, 1, 2, 4)  # views besides the target that are whole, each
    sweep.reconstruction.modes = (("random", 0.9), ("rectangle", 0.75))
    sweep.reconstruction.groups = 64  # of each set, at most
    return sweep


def check_evaluate(config: ConfigDict) -> None:
    """Raises UserError for settings that cannot be."""
    sweep = config.evaluate
    require(
        sweep.models,
        "config.evaluate.models is empty: write for example ('runs/quickstart', 'untrained', 'still')",
    )
    for key in ("models", "evaluators", "sizes", "views", "protocols"):
        value = sweep[key]
        require(
            isinstance(value, (tuple, list)) and value,
            f"config.evaluate.{key}={value!r}: write a tuple of one at least",
        )
    for entry in sweep.models:
        require(
            isinstance(entry, str) and entry,
            f"config.evaluate.models has {entry!r}: write text, as in 'runs/base'",
        )
    for evaluator in sweep.evaluators:
        one_of(evaluator, EVALUATORS, "config.evaluate.evaluators")
    for protocol in sweep.protocols:
        one_of(protocol, PROTOCOLS, "config.evaluate.protocols")
    one_of(sweep.dtype, DTYPES, "config.evaluate.dtype")
    require(
        CHECKPOINTS.fullmatch(sweep.checkpoints),
        f"config.evaluate.checkpoints={sweep.checkpoints!r}: write 'last', 'all', or such as 'every 3'",
    )
    for size in sweep.sizes:
        require(
            is_pair(size) and min(size) > 0, f"config.evaluate.sizes has {size!r}: write (height, width)"
        )
    for key, least in (("views", 2), ("layers", 1)):
        for value in sweep[key]:
            whole = isinstance(value, int) and value >= least
            require(whole, f"config.evaluate.{key} has {value!r}: write {least} or more")
    for key, least in (("points", 1), ("pictures", 0)):
        require(sweep[key] >= least, f"config.evaluate.{key}={sweep[key]}: write {least} or more")
    parse_shard(sweep.shard)
    if "correspondence" in sweep.evaluators and not config.posed:
        raise UserError(
            "config.posed is empty, and correspondence needs views with depth and cameras: see "
            "docs/evaluation.md"
        )


def parse_shard(text: str) -> tuple[int, int]:
    """Number, from 0, and count of the parts that a setting such as "2/4" means."""
    if not text:
        return 0, 1
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if not match or int(match[1]) > int(match[2]):
        raise UserError(f"config.evaluate.shard={text!r}: write such as '2/4', the second of four parts")
    return int(match[1]) - 1, int(match[2])
