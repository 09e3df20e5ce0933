"""Builds the mini suite from public icon sets: drawings, tasks, tokenizer and models."""
