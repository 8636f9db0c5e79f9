"""Where a point of one view is in the others: the truth, what a network says, and how far that is off."""

PROTOCOLS = ("targets", "published")
