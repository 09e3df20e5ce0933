"""Stored indexes of image embeddings: read, and written anew for another backbone."""

FUNCTIONS = {"port_index": "index_port:port_index"}
SECTIONS = {"indexes": "sections:INDEXES"}
