"""From a VOC folder to batches."""
