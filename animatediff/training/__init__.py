"""Training: every stage of AnimateDiff, one loop."""
