"""The text towers, run from token embeddings."""
