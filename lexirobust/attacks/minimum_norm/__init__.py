"""Attacks that look for the nearest adversarial examples, and methods that they share."""
