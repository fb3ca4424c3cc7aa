"""What a run leaves to be read: numbers as files and tables, and the report as a page."""
