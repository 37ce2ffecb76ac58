"""Impartial world model: what comes of a candidate ego motion, honest about danger, and the benchmark of it."""
