"""Parts that several formats share; no file here is a format."""
