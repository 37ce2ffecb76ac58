"""Agents compared in closed loop: arms drive the same routes with the same seeds."""
