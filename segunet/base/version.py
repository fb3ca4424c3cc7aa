"""The version of segunet."""

__version__ = "0.1.0"
