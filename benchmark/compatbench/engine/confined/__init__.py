"""Contributed code in processes of its own, which hand over settings, modules and logits."""
