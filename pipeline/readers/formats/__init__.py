"""One file for each library that reads images; ``pipeline.readers.open_image`` picks among them."""
