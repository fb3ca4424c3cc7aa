"""Networks in other formats: written, read and run."""
