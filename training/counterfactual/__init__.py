"""Counterfactual futures: logged episodes replayed with another ego motion, and what would have come of it."""
