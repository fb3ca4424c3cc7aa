"""Shared utilities: errors, files, the terminal, the environment."""
