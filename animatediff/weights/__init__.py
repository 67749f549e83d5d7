"""Files and modules: the only place that knows how published weights are named and laid out."""
