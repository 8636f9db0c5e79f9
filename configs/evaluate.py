r"""How well networks find the points of one view in others, and reconstruct what is hidden, side by side.

    python -m muskie_jax.main --config configs/evaluate.py --workdir runs/evaluation \
        --config.evaluate.models="('runs/rooms', 'untrained', 'still', 'patches')"

As it is, on a dozen rooms of the synthetic world, whose geometry is exact; it needs no data, and takes a
small network a minute on two CPU cores. On your own views with depth and cameras (docs/evaluation.md says
how they may lie on your disk):

    --config configs/evaluate.py:cameras --config.posed.yours.root=/folder/of/sequences

On photographs without geometry, each scene in a folder of its own, reconstruction alone:

    --config configs/evaluate.py:photos --config.sources.photos.root=/folder/of/scenes

(all scenes; write a --config.sources.photos.holdout to have only those that a run with it held out).
Likewise navi, scannet, seven_scenes, neural_rgbd, transforms and colmap. Published backbones are models,
too: 'dinov2:facebook/dinov2-base', 'mae:/path/to/mae_pretrain_vit_base.pth'.
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, folder, posed

# The sizes of the published protocols; others can be set.
SIZES = {"navi": (512, 512), "scannet": (480, 640), "seven_scenes": (480, 640), "neural_rgbd": (480, 640)}
READERS = ("cameras", "transforms", "colmap", *SIZES)
PHOTOS = "photos"


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "", PHOTOS, *READERS):
        raise ValueError(f"configs/evaluate.py:{arg}: there is {', '.join((PHOTOS, *READERS))}")
    config = default_config()
    config.job = "evaluate"
    config.evaluate.models = ("untrained:small", "still", "patches")  # beside these, yours
    if not arg:
        config.posed.rooms = posed("synthetic", groups=12)
        config.evaluate.sizes = ((128, 128),)
        config.evaluate.reconstruction.groups = 12
        return config
    if arg == PHOTOS:
        config.sources.photos = folder(holdout=0.0)
        config.evaluate.evaluators = ("reconstruction",)
        config.evaluate.sizes = ((224, 224),)
        return config
    name = arg if arg in SIZES else "yours"
    config.posed[name] = posed(arg)
    config.evaluate.sizes = (SIZES.get(arg, (480, 640)),)
    return config
