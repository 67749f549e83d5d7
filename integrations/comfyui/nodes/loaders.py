"""Nodes (to come)."""

NODES = []
