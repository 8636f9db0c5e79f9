"""What a `muskie_jax.models.reconstruction.Reconstruction` is trained on: targets and losses."""
