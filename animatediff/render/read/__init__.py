"""Requests from files: YAML of the original and ours, travel JSON, results made before."""
