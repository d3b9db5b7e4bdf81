"""Masks as what other programs read: pictures, COCO's run lengths, polygons and label files."""
