"""Multi-view correspondence: ground-truth tracks, predictions from a network, and errors."""

PROTOCOLS = ("targets", "published")
