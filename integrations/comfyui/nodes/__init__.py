"""The nodes, one module for each idea; each lists its own in `NODES`."""
