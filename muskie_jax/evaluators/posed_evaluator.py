"""What evaluators of posed sets share: units of work, their labels, and applying a function to groups."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from muskie_jax.data.posed.views import Group, PosedSet, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluators.eval_models import STILL, EvalModel
from muskie_jax.evaluators.loading import load_in_order
from muskie_jax.evaluators.results import Labels, Setting

# A function of parameters and of arrays with a leading axis of groups, whose results have this axis too.
# Its keyword arguments are hashable: equal ones share one compiled program.
Compute = functools.partial[Any]


class Computed(NamedTuple):
    """A group, its views, and what was computed from them, numpy arrays without the axis of groups."""

    group: Group
    views: PosedViews
    output: Any


class PosedEvaluator:
    """The part of a `SweepEvaluator` that does not depend on what is measured.

    Args:
      sets: posed datasets, by number of views per group.
      sizes: (height, width) of views, pixels.
      options: settings that are the same for all units of work.
    """

    reporting_keys: tuple[str, ...] = ("layers", "pictures")

    def __init__(
        self,
        sets: Mapping[int, Sequence[PosedSet]],
        sizes: Sequence[tuple[int, int]],
        options: Mapping[str, Any],
    ):
        self.sets = {(views, each.name): each for views, some in sets.items() for each in some}
        self._sizes, self._options = sizes, options
        # No more devices than groups.
        most_groups = max((len(each.groups) for each in self.sets.values()), default=1)
        devices = jax.local_devices()
        self.mesh = Mesh(np.array(devices[: max(1, min(len(devices), most_groups))]), ("data",))

    def settings(self) -> list[Setting]:
        return [
            {
                "dataset": name,
                "views": views,
                "height": height,
                "width": width,
                "groups": len(each.groups),
                **self._options,
            }
            for (views, name), each in self.sets.items()
            for height, width in self._sizes
        ]

    def image_folders(self, setting: Setting) -> Sequence[pathlib.Path]:
        return getattr(self.sets[setting["views"], setting["dataset"]], "image_folders", ())

    def run(
        self,
        compute: Compute,
        params: Any,
        setting: Setting,
        size: tuple[int, int],
        inputs: Callable[[PosedViews], tuple[np.ndarray, ...]],
    ) -> Iterator[Computed]:
        """Yields the groups of a setting in order, each with what `compute` returns for it.

        Args:
          compute: see `Compute`; its arguments are the parameters, then the arrays of `inputs`.
          params: parameters of the network.
          setting: one of `settings()`.
          size: (height, width) of the views to load, pixels.
          inputs: function that returns the arrays to compute from, given a group's views.
        """
        # Equal partials do not compare equal, and would compile again for every model and dataset.
        function, options = compute.func, tuple(compute.keywords.items())
        each, batch = self.sets[setting["views"], setting["dataset"]], self.mesh.size
        params = jax.device_put(params, jax.NamedSharding(self.mesh, P()))
        load = functools.partial(each.load, size=size)
        loaded = load_in_order(load, range(len(each.groups)), each.parallel, ahead=batch)
        groups = zip(each.groups, loaded)
        while chunk := list(itertools.islice(groups, batch)):
            arrays = [inputs(views) for _, views in chunk]
            arrays += arrays[:1] * (batch - len(arrays))
            stacked = tuple(np.stack(x) for x in zip(*arrays))
            applied = _apply(params, stacked, function=function, options=options, mesh=self.mesh)
            output = jax.device_get(applied)
            for number, (group, views) in enumerate(chunk):
                yield Computed(group, views, jax.tree.map(lambda x, i=number: x[i], output))


class FeatureEvaluator(PosedEvaluator):
    """The part of an evaluator of frozen features that does not depend on what is measured.

    Args:
      sets: posed datasets, by number of views per group.
      sizes: (height, width) of views, pixels.
      layers: layers to measure, from 1; empty for all.
      options: further settings that are the same for all units of work.
    """

    def __init__(
        self,
        sets: Mapping[int, Sequence[PosedSet]],
        sizes: Sequence[tuple[int, int]],
        layers: Sequence[int] = (),
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__(sets, sizes, {"layers": list(layers)} | dict(options or {}))
        self.layers = tuple(layers)

    def accepts(self, kind: str) -> bool:
        return kind != STILL


def labels_of(setting: Setting) -> Labels:
    """Returns the part of a setting that labels its results."""
    names = ("dataset", "views", "height", "width", "enlarge", "orientations")
    return {name: setting[name] for name in names if name in setting}


def require_layers(measured: Any, layers: Sequence[int], model: EvalModel) -> None:
    """Raises UserError if nothing was measured, because a network has none of `config.evaluate.layers`."""
    if not measured:
        raise UserError(f"config.evaluate.layers={layers}: {model.info.name} has none of these layers")


def require_finite(finite: Any, model: EvalModel, group: str, what: str = "features") -> None:
    """Raises UserError if not everything that a network computed of a group is finite."""
    if not finite:
        raise UserError(f"{model.info.name}: its {what} are not finite on {group}")


@functools.partial(jax.jit, static_argnames=("function", "options", "mesh"))
def _apply(
    params: Any,
    arrays: tuple[Array, ...],
    *,
    function: Callable[..., Any],
    options: tuple[tuple[str, Hashable], ...],
    mesh: Mesh,
) -> Any:
    """Applies a function with its keyword arguments to groups, one per device of the mesh."""
    compute = functools.partial(function, **dict(options))
    if mesh.size == 1:
        return compute(params, *arrays)
    # Custom kernels do not declare over which mesh axes their results vary, which check_vma would require.
    return jax.shard_map(
        lambda params, arrays: compute(params, *arrays),
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P("data"),
        check_vma=False,
    )(params, arrays)
