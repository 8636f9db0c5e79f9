r"""Compares networks: correspondence between views, and reconstruction of masked views.

    muskie evaluate --config configs/evaluate.py --workdir runs/evaluation \
        --config.evaluate.models="('small', 'untrained', 'still', 'patches')"

Without an argument it evaluates on a dozen synthetic rooms with exact geometry. This needs no data and
takes about a minute per Muskie-S on two CPU cores. docs/evaluation.md lists the numbers to expect.
On your own views with depth and cameras, in one of the layouts of docs/evaluation.md:

    --config configs/evaluate.py:cameras --config.posed.yours.root=/folder/of/sequences

:recordings evaluates on 60 groups of 4 views of 128x128, from five recorded sequences: the protocol of
docs/experiments.md. Networks see these views enlarged to 256x256, the first at eight angles. :wide does the
same with two sequences of wide baselines. Both need the folder that contains the sequences, one folder with
cameras.json each:

    --config configs/evaluate.py:recordings --config.data.root=/folder/of/sequences

:geometry evaluates cameras and point maps of networks with a decoder, on four views of 128x128 of 64
synthetic rooms; :geometry_recordings does so on those of :recordings too:

    --config configs/evaluate.py:geometry --config.evaluate.models="('runs/reconstruct_rooms',)"

:navi_pairs and :scannet_pairs evaluate recall of correspondence from frozen features on pairs of views, as
Probe3D does; docs/evaluation.md says where the data come from:

    --config configs/evaluate.py:navi_pairs --config.posed.navi.root=/data/navi_v1 \
        --config.evaluate.models="('runs/base', 'dinov2:facebook/dinov2-base')"
    --config configs/evaluate.py:scannet_pairs --config.posed.scannet.root=/data/scannet_test_1500 \
        --config.evaluate.models="('runs/base', 'dinov2:facebook/dinov2-base')"

The other arguments for views with geometry are transforms, colmap, tum, navi, scannet, scannetpp,
seven_scenes, neural_rgbd, arkitscenes and blendedmvs. On photographs without geometry, one folder per
scene, it evaluates reconstruction only:

    --config configs/evaluate.py:photos --config.sources.photos.root=/folder/of/scenes

If one of the models was trained on this folder, this uses only the scenes that were held out then.
Otherwise it uses all scenes, as always with --config.sources.photos.holdout=0. Published backbones can be
evaluated too: 'dinov2:facebook/dinov2-base', 'mae:/path/to/mae_pretrain_vit_base.pth'.
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, folder, posed

# Image sizes of datasets, (height, width); those of navi and scannet are published.
SIZES = {
    "navi": (512, 512),
    "scannet": (480, 640),
    "scannetpp": (480, 640),
    "seven_scenes": (480, 640),
    "neural_rgbd": (480, 640),
    "arkitscenes": (480, 640),
    "blendedmvs": (384, 512),
}
READERS = ("cameras", "transforms", "colmap", "tum", *SIZES)
PHOTOS = "photos"
GEOMETRY = ("geometry", "geometry_recordings")
# Pairs of views for recall: name of the dataset and the setting that chooses the pairs.
PAIRS = {
    "navi_pairs": ("navi", {"collections": "wild"}),
    "scannet_pairs": ("scannet", {"pairs": "test.npz"}),
}
# Sequences in the layout "cameras", each with 12 groups.
SEQUENCES = {
    "recordings": (
        "apt0_bundlefusion",
        "redkitchen_registered",
        "sun3d_lounge_a",
        "tote_realsense",
        "tum_fr1_rpy",
    ),
    "wide": ("llff_fern", "robotdesk_multicam"),
}


def get_config(arg: str | None = None) -> ConfigDict:
    arguments = (PHOTOS, *GEOMETRY, *PAIRS, *SEQUENCES, *READERS)
    if arg not in (None, "", *arguments):
        choices = ", ".join(arguments)
        raise ValueError(f"configs/evaluate.py: unknown argument {arg!r} (choices: {choices})")
    config = default_config()
    config.job = "evaluate"
    config.evaluate.models = ("untrained:small", "still", "patches")  # add yours
    if not arg:
        config.posed.rooms = posed("synthetic", groups=12)
        config.evaluate.sizes = ((128, 128),)
        config.evaluate.reconstruction.groups = 12
        return config
    if arg == PHOTOS:
        config.sources.photos = folder(holdout=None)
        config.evaluate.evaluators = ("reconstruction",)
        config.evaluate.sizes = ((224, 224),)
        return config
    if arg in GEOMETRY:
        config.posed.rooms = posed("synthetic", groups=64)
        if arg == "geometry_recordings":
            _add_sequences(config, "recordings")
        config.evaluate.update(
            models=("runs/reconstruct_rooms",), evaluators=("geometry",), sizes=((128, 128),), views=(4,)
        )
        config.evaluate.geometry.points = 2_000
        return config
    if arg in PAIRS:
        name, choice = PAIRS[arg]
        config.posed[name] = posed(name, groups=0, **choice)
        config.evaluate.models = ("untrained:small", "patches")
        config.evaluate.update(evaluators=("recall",), sizes=(SIZES[name],), views=(2,))
        config.evaluate.recall.protocol = name
        return config
    if arg in SEQUENCES:
        _add_sequences(config, arg)
        config.evaluate.evaluators = ("correspondence",)
        config.evaluate.update(
            sizes=((128, 128),), enlarge=2, orientations=8, views=(4,), protocols=("targets",)
        )
        return config
    name = arg if arg in SIZES else "yours"
    config.posed[name] = posed(arg)
    config.evaluate.sizes = (SIZES.get(arg, (480, 640)),)
    return config


def _add_sequences(config: ConfigDict, arg: str) -> None:
    for name in SEQUENCES[arg]:
        config.posed[name] = posed("cameras", root=name, groups=12)
