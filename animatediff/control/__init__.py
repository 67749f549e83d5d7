"""Former places of `models.sparsectrl` and `sampling.controlnet`."""
