"""Infrastructure of the commands: settings, help, run folders, sweeps."""
