"""Geometry of points, without classifiers: norms, balls, cells, neighbors, warps of images."""
