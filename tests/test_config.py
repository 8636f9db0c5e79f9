"""Configs: shipped ones trace at full size, and every mistake is reported in one line."""

import functools
import hashlib
import math
import pathlib

import jax
import numpy as np
import pytest

from muskie_jax.buckets import BucketSchedule
from muskie_jax.checks import RENAMED, current_path
from muskie_jax.config import (
    dataset,
    default_config,
    folder,
    peak_learning_rate,
    posed,
    published_sources,
    synthetic,
    to_steps,
    total_steps,
    validate,
    warmup_steps,
)
from muskie_jax.config_file import load_config
from muskie_jax.errors import UserError
from muskie_jax.evaluators.settings import ReconstructionSettings
from muskie_jax.losses import LossOptions
from muskie_jax.masking import MaskOptions
from muskie_jax.models.muskie import VARIANTS, build_model
from muskie_jax.optim import learning_rate_schedule, make_optimizer
from muskie_jax.optim_settings import OptimSettings
from muskie_jax.programs import batch_shapes
from muskie_jax.reconstruction.settings import has_geometry
from muskie_jax.sharding import check_batch, make_mesh
from muskie_jax.train_step import abstract_state, accumulate_gradients, make_task

# Configs for training. The others take their networks from their arguments and have tests of their own.
CONFIGS = [
    path
    for path in sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))
    if path.stem not in ("benchmark", "benchmark_data", "plan")
]


def load(path):
    config = load_config(path)
    for source in config.sources.values():
        if source.kind == "folder":
            source.root = "/photographs"
    return config


@pytest.fixture
def config():
    config = default_config()
    config.sources.rooms = synthetic()
    return config


def test_the_published_configs_exist():
    names = {path.stem for path in CONFIGS}
    assert names >= {"quickstart", "photos", "muskie_small", "muskie_base", "muskie_large", "muskie_huge"}


def test_parts_of_wide_rooms_are_switched_on_separately():
    world_of = lambda arg: load_config(f"configs/{arg}").sources.rooms.world.to_dict()
    default, everything = world_of("rooms.py"), world_of("wide_rooms.py")
    changed = {}
    for part in ("cameras", "faults", "surfaces"):
        world = world_of(f"wide_rooms.py:{part}")
        changed |= {key: value for key, value in world.items() if value != default[key]}
        assert world != default and world != everything
    assert everything == default | changed == world_of("wide_rooms.py:surfaces,cameras,faults")
    with pytest.raises(UserError, match="wide_rooms.py: 'camera' .* did you mean 'cameras'"):
        world_of("wide_rooms.py:camera")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_trace_at_full_size(path):
    """The gradient program has the right shapes in every bucket of every config; nothing is computed."""
    config = load(path)
    validate(config)
    mesh = make_mesh(config.mesh, jax.devices()[: config.batch.groups])
    check_batch(config, mesh)
    optimizer = make_optimizer(config)
    config.model.scan_blocks = True  # traces one block, not all
    one_device = make_mesh(config.mesh, jax.devices()[:1])
    task = make_task(config, one_device, len(config.sources))
    params = abstract_state(task.model, optimizer, mesh).params
    step = functools.partial(accumulate_gradients, task=task, weight=1.0)
    buckets = BucketSchedule.of(config).all()
    assert len(buckets) == len({bucket[:2] for bucket in buckets}) * len(config.buckets.views)
    # Every size with the most views, and every number of views at the largest size.
    for bucket in (b for b in buckets if b.views == buckets[-1].views or b[:2] == buckets[-1][:2]):
        batch = batch_shapes(
            bucket, config.batch.groups, config.batch.views, task.backbone.patch, mesh, has_geometry(config)
        )
        gradients, metrics = jax.eval_shape(step, params, params, batch)
        assert jax.tree.map(lambda x: x.shape, gradients) == jax.tree.map(lambda x: x.shape, params)
        if not has_geometry(config):
            assert metrics["source_loss"].total.shape == (len(config.sources),)


def test_the_recipe_is_the_published_one():
    base = load(next(path for path in CONFIGS if path.stem == "muskie_base"))
    assert len(BucketSchedule(base.buckets.resolutions, base.buckets.views, 0).all()) == 4 + 4 + 20
    assert (base.batch.reuse, base.batch.passes) == (2, 2)
    assert total_steps(base) == 1_250_000
    large = load(next(path for path in CONFIGS if path.stem == "muskie_large"))
    assert total_steps(large) == 312_500
    assert warmup_steps(base) == total_steps(base) // 200
    optim = base.optim
    assert (optim.b1, optim.b2, optim.eps, optim.weight_decay, optim.learning_rate) == (
        0.9, 0.95, 1e-8, 0.05, 2e-4,
    )  # fmt: skip
    assert len(base.sources) == 9 and "waymo" not in base.sources
    for path in CONFIGS:
        if path.stem.startswith("muskie_"):
            assert load(path).model.variant == path.stem.split("_")[1]


def test_the_recipe_for_a_small_gpu_is_that_of_many_devices():
    base, small = (load_config(f"configs/{name}.py:photos") for name in ("muskie_base", "muskie_base_24gb"))
    assert small.batch.groups * small.batch.passes == base.batch.groups * base.batch.passes
    for quantity in (total_steps, warmup_steps, peak_learning_rate):
        assert quantity(small) == quantity(base)
    small.batch.update(groups=base.batch.groups, passes=base.batch.passes)
    small.data.prefetch = base.data.prefetch
    assert small == base


def test_learning_rates(config):
    config.batch.update(groups=64, reuse=2, passes=4)
    config.duration, config.optim.warmup = "100 steps", "10 steps"
    config.optim.min_learning_rate = 1e-5
    assert peak_learning_rate(config) == config.optim.learning_rate == 2e-4
    config.optim.base_learning_rate = 4e-4
    validate(config)
    assert peak_learning_rate(config) == pytest.approx(4e-4 * 128 / 256), "128 new groups per step"
    schedule = learning_rate_schedule(config)
    assert schedule(10) == pytest.approx(2e-4)
    assert schedule(55) == pytest.approx((2e-4 + 1e-5) / 2)
    assert schedule(100) == pytest.approx(1e-5)


def test_durations(config):
    config.batch.update(groups=10, reuse=2, passes=1)
    assert to_steps("1_500 steps", config, "x") == 1500
    assert to_steps("1 step", config, "x") == 1
    assert to_steps("1e3 examples", config, "x") == 200
    assert to_steps("0.5 epochs", config, "x") == 10_000
    config.batch.passes = 2
    assert to_steps("0.5 epochs", config, "x") == 5_000
    assert to_steps("1_500 steps", config, "x") == 1500
    config.batch.passes = 1
    config.optim.warmup = "0 steps"
    for steps in ("0 steps", "0 epochs"):
        config.duration = steps  # only evaluates
        config.optim.warmup = "2 epochs"
        validate(config)
        assert np.isfinite(learning_rate_schedule(config)(0))


WRONG = {
    "seed": (99999999999999999999, "config.seed=99999999999999999999 must be at most 4294967295"),
    "seed#bits": (2**32, "config.seed=4294967296 must be at most 4294967295"),
    "model.registers": (10**9, "config.model.registers=1000000000 must be at most 1024"),
    "optim.learning_rate#infinite": (math.inf, "config.optim.learning_rate=inf must be a finite number"),
    "optim.learning_rate#nan": (math.nan, "config.optim.learning_rate=nan must be a finite number"),
    "optim.learning_rate#negative": (-1.0, "config.optim.learning_rate=-1.0 must be above 0"),
    "optim.clip_norm#nan": (math.nan, "config.optim.clip_norm=nan must be a finite number"),
    "max_minutes#infinite": (math.inf, "config.max_minutes=inf must be a finite number"),
    "batch.groups#many": (10**10, "config.batch.groups=10000000000 must be at most 1000000"),
    "data.workers": (10**6, "config.data.workers=1000000 must be at most 1024"),
    "log.every#many": (2**31, "config.log.every=2147483648 must be at most 2147483647"),
    "mask.modes#nan": ((("random", math.nan),), "config.mask.modes has nan, which must be a finite number"),
    "evaluation.size#large": ((160_000, 160), "config.evaluation.size has a side of 160000: use at most"),
    "buckets.late#large": ((((160_000, 160),),), "config.buckets.late has a side of 160000: use at most"),
    "duration#many": ("1e15 steps", "config.duration='1e15 steps' has more than 2147483647 steps"),
    "optim.warmup#many": ("1e300 epochs", "config.optim.warmup='1e300 epochs' has more than 2147483647 s"),
    "job": ("trian", "config.job: 'trian' is not a valid value; did you mean 'train'?"),
    "model.variant": ("bse", "did you mean 'base'? (choices: base, huge, large, nano, small, tiny)"),
    "model.dtype": ("float16", "config.model.dtype: 'float16' is not a valid value"),
    "profile.steps": ((13, 10), "must be the first and the last update, such as (10, 13)"),
    "model.remat": ("blocks", "did you mean 'block'? (choices: block, elementwise, full, none)"),
    "model.attention": ("flex", "(choices: auto, cudnn, flash, splash, xla)"),
    "mask.modes": (
        (("rectangel", 0.5),),
        "config.mask.modes: 'rectangel' is not a valid value; did you mean 'rectangle'?",
    ),
    "mask.modes#ratio": ((("random", 1.5),), "ratio 1.5 of random must be above 0, at most 1"),
    "mask.modes#pair": (("random",), "but must have pairs such as ('random', 0.9)"),
    "mask.num_reference": (-1, "config.mask.num_reference=-1 must be 0 or more, or None"),
    "loss.error": ("mse", "config.loss.error: 'mse' is not a valid value"),
    "loss.pooling": ("token", "config.loss.pooling: 'token' is not a valid value; did you mean 'tokens'?"),
    "batch.passes": (0, "config.batch.passes=0 must be at least 1"),
    "buckets.resolutions": ((((448, 252),),), "448x252, not divisible by the patch size 16: the nearest"),
    "buckets.resolutions#nearest": ((((448, 252),),), "valid sizes are (448, 240) and (448, 256)"),
    "buckets.resolutions#flat": (((224, 224),), "must be a tuple of (height, width)"),
    "buckets.late": ((((448, 252),),), "config.buckets.late has 448x252, not divisible by the patch size"),
    "buckets.late#flat": (((224, 224),), "config.buckets.late=((224, 224),) must be a tuple of (height"),
    "buckets.late_fraction": (
        0.2,
        "config.buckets.late has 0 entries and config.buckets.resolutions has",
    ),
    "buckets.late_fraction#range": (1.2, "config.buckets.late_fraction=1.2 must be from 0 to 1"),
    "model.rope_base": (0.0, "config.model.rope_base=0.0 must be above 0, such as 100"),
    "mask.modes#nothing": (
        (("random", 0.001),),
        "('random', 0.001) masks no patch of a 224x224 view: use",
    ),
    "mask.num_reference#all": (2, "leaves no view to mask in groups of 1 views: use less than 1"),
    "duration#endless": ("1e999 steps", "must be a number of steps, epochs or examples, such as"),
    "buckets.views": ((3,), "does not divide config.batch.views=8: choose from 1, 2, 4, 8"),
    "evaluation.size": ((100, 112), "config.evaluation.size has 100x112, not divisible"),
    "duration": ("400 epoques", "must be a number of steps, epochs or examples, such as"),
    "optim.warmup": ("500 epochs", "is not shorter than config.duration='400 epochs'"),
    "duration#unit": ("2000", 'a number of steps, epochs or examples, such as "2000 steps"'),
    "duration#short": ("40 steps", "(40 steps): pass --config.optim.warmup='2 steps', or a longer --con"),
    "optim.learning_rate": (0.0, "config.optim.learning_rate=0.0 must be above 0"),
    "optim.min_learning_rate": (1.0, "config.optim.min_learning_rate=1.0 must be below the peak"),
    "max_minutes": (-1.0, "config.max_minutes=-1.0 must be at least 0"),
    "checkpoint.keep_every": (-5, "config.checkpoint.keep_every=-5 must be at least 0"),
    "checkpoint.keep_best": (-1, "config.checkpoint.keep_best=-1 must be at least 0"),
    "checkpoint.keep": (0, "config.checkpoint.keep=0 must be at least 1"),
    "checkpoint.minutes": (0.0, "config.checkpoint.minutes=0.0 and config.checkpoint.every=0 save nothing"),
    "model.initial_values": ("torch", "(choices: published, xavier)"),
    "optim.decay": ("some", "(choices: all, matrices)"),
    "batch.groups": (0, "config.batch.groups=0 must be at least 1"),
    "data.max_bad_fraction": (2.0, "config.data.max_bad_fraction=2.0 must be from 0 to 1"),
    "mesh.data": (0, "config.mesh.data=0 must be 1 or more, or -1"),
    "mesh.fsdp": (-1, "only one axis may be -1"),
    "log.every": (0, "config.log.every=0 must be at least 1"),
}


@pytest.mark.parametrize("key", WRONG)
def test_wrong_values_are_one_line(config, key):
    value, expected = WRONG[key]
    validate(config)
    *path, name = key.partition("#")[0].split(".")
    section = config
    for part in path:
        section = section[part]
    section[name] = value
    with pytest.raises(UserError) as caught:
        validate(config)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_sources_are_one_line(config):
    def complaint(**sources):
        broken = default_config()
        broken.sources.update(sources)
        with pytest.raises(UserError) as caught:
            validate(broken)
        return str(caught.value)

    assert "config.sources is empty" in complaint()
    assert "config.sources.p.root is empty: pass --config.sources.p.root=" in complaint(p=folder())
    assert "config.sources.p.kind: 'video' is not a valid value" in complaint(p={"kind": "video"})
    assert "every weight is 0" in complaint(p=synthetic(weight=0.0))
    assert "glob='/x/*'" in complaint(p=folder(root="x", glob="/x/*"))
    assert "config.sources.p.world.field_of_view=(45.0,) must be 2" in complaint(
        p=synthetic(field_of_view=(45.0,))
    )
    assert "config.sources.p.world: " in complaint(p=synthetic(samples_per_pixel=3))
    assert "num_photos=0" in complaint(p=synthetic(num_photos=0))
    assert "holdout=1.0" in complaint(p=folder(root="x", holdout=1.0))
    assert "window=0" in complaint(p=folder(root="x", window=0))
    assert "overlap=(0.9, 0.3) must be two increasing fractions (low, high), such" in complaint(
        p=folder(root="x", overlap=(0.9, 0.3))
    )
    assert "config.sources.p.weight='2' must be a number, such as 1.0" in complaint(
        p=folder(root="x", weight="2")
    )
    named = dataset("waymo", root="x")
    named.layout = "weymo"
    assert "config.sources.p.layout: 'weymo' is not a valid value; did you mean 'waymo'?" in complaint(
        p=named
    )
    named.update({"layout": "waymo", "zoom": 0.5})
    assert "config.sources.p.zoom=0.5 must be 0: waymo has no object masks" in complaint(p=named)
    with pytest.raises(UserError, match="'co3dv2' is not a valid value; did you mean 'co3d'"):
        dataset("co3dv2")
    with pytest.raises(
        UserError, match="'mine' is not a valid argument of this config: use none, .* or :photos"
    ):
        published_sources("mine")
    extra = folder(root="x")
    extra.golb = "*"
    assert "unknown setting config.sources.p.golb; did you mean 'glob'?" in complaint(p=extra)
    with pytest.raises(UserError, match="unknown setting 'num_boxs'; did you mean 'num_boxes'"):
        synthetic(num_boxs=3)


def test_every_setting_of_a_section_is_a_field_of_its_dataclass():
    """A section has the defaults of its dataclass, and a placeholder of the right type for None."""
    config = default_config()
    assert config.mask.modes == MaskOptions().modes and config.optim.b2 == OptimSettings().b2
    assert config.evaluate.reconstruction.groups == ReconstructionSettings().groups
    config.mask.num_reference = 3
    with pytest.raises(TypeError):
        config.mask.num_reference = "three"
    with pytest.raises(AttributeError, match="locked"):
        config.evaluate.reconstruction.group = 3
    assert LossOptions(**config.loss) == LossOptions()
    assert MaskOptions.of(config.mask) == MaskOptions(num_reference=3)


def test_mask_options_of_lists_are_hashable(config):
    config.mask.modes = [["random", 0.5], ["blob", 0.25]]
    options = MaskOptions.of(config.mask)
    assert options == MaskOptions((("random", 0.5), ("blob", 0.25)))
    assert hash(options)


def test_defaults_are_those_of_the_first_version():
    """Checkpoints and scripts rely on names and values: a change is deliberate, and is entered here."""
    digest = hashlib.sha256(default_config().to_json_best_effort().encode()).hexdigest()
    assert digest[:16] == "c7a436bb8c9e94e0"


def test_renamed_settings():
    assert current_path("sweep.models") == "evaluate.models"
    assert current_path("sweep.share") == "evaluate.shard"
    assert current_path("sweep.reconstruction.views") == "evaluate.reconstruction.views"
    assert (
        current_path("posed.rooms.world.photo_texture_share") == "posed.rooms.world.photo_texture_fraction"
    )
    for path in ("evaluate.shard", "data.max_bad_fraction", "sources.sweep.weight", "seed"):
        assert current_path(path) == path
    for path in RENAMED.values():
        assert current_path(path) == path, "names are not renamed twice"
    with pytest.raises(
        UserError, match=r"^posed\('synthetic'\): world: photo_texture_share is now photo_textu"
    ):
        posed("synthetic", world={"photo_texture_share": 0.1})


def test_renamed_keys_of_a_config_name_the_new_ones(config):
    with config.unlocked():
        config.sweep = {"models": ()}
    with pytest.raises(UserError, match="^config.sweep is now config.evaluate$"):
        validate(config)
    with config.unlocked():
        del config["sweep"]
        config.data.max_bad_share = 0.1
    with pytest.raises(UserError, match="^config.data.max_bad_share is now config.data.max_bad_fraction$"):
        validate(config)


def test_unknown_and_missing_keys_are_one_line(config):
    with config.unlocked():
        config.optim.learning_rat = 1.0
    with pytest.raises(
        UserError, match="unknown setting config.optim.learning_rat; did you mean 'learning_rate'"
    ):
        validate(config)
    with config.unlocked():
        del config.optim["learning_rat"]
        del config.optim["b1"]
    with pytest.raises(UserError, match="config.optim.b1 is missing"):
        validate(config)


def test_a_batch_must_fit_the_devices(config):
    devices = jax.devices()
    config.batch.groups = 12
    with pytest.raises(UserError, match="config.batch.groups=12 cannot be split over 8 devices: use 16"):
        check_batch(config, make_mesh(config.mesh, devices))
    check_batch(config, make_mesh(config.mesh, devices[:4]))
    config.mesh.update({"data": 2, "view": 4})
    with pytest.raises(UserError, match="groups of 1 views cannot be split over config.mesh.view=4"):
        check_batch(config, make_mesh(config.mesh, devices))
    config.mesh.update({"data": 3})
    with pytest.raises(UserError, match="does not fit 8 devices"):
        make_mesh(config.mesh, devices)
    with pytest.raises(UserError, match=r"config.mesh.fsdp=5 cannot split .* of shape"):
        mesh = make_mesh({"data": 1, "fsdp": 5, "view": 1}, devices[:5])
        abstract_state(build_model("nano"), make_optimizer(config), mesh)


def test_every_variant_builds():
    for name in VARIANTS:
        assert build_model(name).width == VARIANTS[name].width
