"""Load checkpoints and predict."""
