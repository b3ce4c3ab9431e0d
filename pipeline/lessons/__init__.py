"""Exercises of the university unit on neural networks; nothing else uses them."""
