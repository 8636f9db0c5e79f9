"""Pictures of data, features, matches, tracks and reconstructions, as uint8 arrays."""
