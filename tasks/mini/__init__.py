"""The mini suite: small tasks, a tokenizer and a pair of small models that ship with compatbench."""
