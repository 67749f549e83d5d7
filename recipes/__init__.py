"""How things that ship were made."""
