"""Metrics of driven routes, equal to those of the official Leaderboard and Bench2Drive tools, with their uncertainty.

They read result files only (the official layouts and our own), so runs of other people's agents are scored as well.
"""
