"""One file a page: read, compute figures, fill the template."""
