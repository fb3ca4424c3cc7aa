"""Around a command: its settings, its help, its run's folder, sweeps."""
