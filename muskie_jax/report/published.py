"""The paper's results on multi-view correspondence (arXiv 2511.18115).

They follow the protocol that we call "published", which also scores view 0 against itself.
"""

from typing import NamedTuple

METRICS = ("px_ate", "px_5", "px_10", "cm_ate", "cm_2", "cm_5")


class PublishedTable(NamedTuple):
    """Results on one dataset.

    Attributes:
      views: number of views per group.
      height, width: size of the views, pixels.
      models: model name -> values of METRICS: mean errors in px and cm, percentages within thresholds.
    """

    views: int
    height: int
    width: int
    models: dict[str, tuple[float, ...]]


PROTOCOL = "published"
PUBLISHED = {  # key: the dataset's reader
    "navi": PublishedTable(
        8, 512, 512,
        {
            "MAE": (81.24, 14.63, 19.11, 5.25, 54.73, 78.19),
            "DINOv2": (53.31, 16.94, 26.29, 4.24, 69.97, 84.23),
            "DINOv3": (41.15, 17.23, 27.95, 3.76, 74.89, 87.11),
            "Muskie-B": (42.54, 19.48, 31.95, 2.93, 75.90, 89.17),
            "Muskie-L": (29.42, 22.29, 39.21, 2.38, 82.74, 91.87),
        },
    ),
    "scannet": PublishedTable(
        8, 480, 640,
        {
            "MAE": (104.94, 22.07, 25.18, 62.70, 24.01, 28.51),
            "CroCo v2": (25.92, 34.20, 55.93, 29.84, 38.16, 58.02),
            "DINOv2": (72.11, 23.42, 29.22, 49.09, 27.13, 34.29),
            "DINOv3": (55.78, 24.66, 33.54, 42.58, 29.49, 41.69),
            "Muskie-B": (33.77, 31.41, 47.67, 31.67, 35.03, 51.14),
            "Muskie-L": (24.68, 33.83, 52.96, 27.82, 37.52, 56.60),
        },
    ),
}  # fmt: skip
