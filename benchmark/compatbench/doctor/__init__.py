"""Whether a suite can run on this machine: images, weights, published figures, the machine."""
