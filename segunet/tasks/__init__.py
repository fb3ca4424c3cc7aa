"""LightningModules: what is done with a network that comes built."""
