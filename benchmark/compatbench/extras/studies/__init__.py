"""Why a module survives an upgrade: layers, depth, embeddings, and the paper's claims."""
