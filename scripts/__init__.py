"""Entry points that users of the original know."""
