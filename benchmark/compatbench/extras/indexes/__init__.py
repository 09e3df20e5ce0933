"""Stored indexes of image embeddings: read, and written anew for another backbone."""
