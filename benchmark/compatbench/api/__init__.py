"""The functions of ``compatbench`` that are made of several rooms, in light modules.

Their imports wait until a function needs them, so that help and completion are quick.
"""
