"""Attacks that follow gradients, by a given norm."""
