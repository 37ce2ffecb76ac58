"""Adapting a driving policy while it drives: data, training and studies."""
