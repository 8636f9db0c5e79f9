"""Types for ml_collections, which has none: pyright would infer one wide union for every setting."""

from ml_collections import config_dict as config_dict
from ml_collections import config_flags as config_flags
from ml_collections.config_dict import ConfigDict as ConfigDict
