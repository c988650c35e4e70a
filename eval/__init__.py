"""Evaluation: bias and quality of a model, and the pages that show them."""
