"""Attacks that move images by other things than norms: rotations, translations, flow fields."""
