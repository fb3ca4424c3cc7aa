"""The version of segunet, once for all."""

__version__ = "0.1.0"
