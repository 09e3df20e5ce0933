"""What stands beside the core. Each folder is whole; the core knows none of them."""
