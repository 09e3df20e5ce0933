"""Parts that several transfers share; no file here is a transfer."""
