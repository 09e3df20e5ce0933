"""Parts that several methods share. In keys the version of the harness identifies them."""
