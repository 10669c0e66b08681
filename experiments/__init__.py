"""Experiments: one Python file each, with the command that runs it on its first lines."""
