"""What both towers are made of: blocks with updates, and parameters by common names."""
