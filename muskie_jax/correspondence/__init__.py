"""Multi-view correspondence: ground-truth tracks, predictions from a network, and errors."""

PROTOCOLS = ("targets", "published")
RECALL_PROTOCOLS = ("navi", "scannet")  # see `muskie_jax.correspondence.recall`
