"""What a network costs: parameters and FLOPs counted, time and memory measured."""
