"""All studies in one results file and on one page, with the papers' claims judged by rules that stand in the code."""
