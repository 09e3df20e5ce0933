"""What several methods share; of the harness, and named by its version in keys."""
