"""The synthetic data set of the bundled model: words, drawing, scenes, styles, and a classifier of clips."""
