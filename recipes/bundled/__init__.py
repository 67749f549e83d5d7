"""How the bundled model was made and measured; `make bundled` runs it."""
