"""Pixels, and the sets of normalised images made from them."""
