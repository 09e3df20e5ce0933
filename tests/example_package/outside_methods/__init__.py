"""Three methods of an author who is no author of compatbench."""
