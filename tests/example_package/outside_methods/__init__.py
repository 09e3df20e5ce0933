"""Three methods by an author from outside."""
