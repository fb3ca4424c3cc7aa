"""Metrics: every score from one confusion matrix."""
