"""Reports of a run: scores as files and tables, and a web page."""
