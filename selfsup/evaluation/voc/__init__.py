"""Pascal VOC: which objects an image shows, where they are, and of which pixels."""
