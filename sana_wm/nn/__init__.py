"""Blocks with no idea of what a world is."""
