"""Write, read and run networks in other formats."""
