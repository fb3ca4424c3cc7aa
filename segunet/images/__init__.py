"""Images as numbers: read, resized, drawn."""
