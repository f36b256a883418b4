"""Readers, one file for each format or library; ``pipeline.readers.open_image`` picks among them."""
