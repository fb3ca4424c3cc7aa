"""The cost of a network: parameters and FLOPs counted, time and memory measured."""
