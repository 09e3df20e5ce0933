"""The mini suite: tasks, a tokenizer and two small models that ship with compatbench."""
