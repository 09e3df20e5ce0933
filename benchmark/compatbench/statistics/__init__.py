"""How sure a figure is, and what a comparison can tell apart; numbers in, numbers out."""
