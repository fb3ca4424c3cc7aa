"""What all folders build on: errors, files, the terminal, the environment."""
