"""Memory: how much there is, how much a computation takes, and measures that make it smaller."""
