"""The small model that ships with the package, and the sprite world it was trained on."""
