"""The networks that this project defines besides the motion modules."""
