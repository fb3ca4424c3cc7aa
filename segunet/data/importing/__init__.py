"""Labels of other formats, for segunet.import_labels."""
