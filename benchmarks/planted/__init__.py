"""Planted defects and clean twins: what a data checker must name, row by row, and where it must keep quiet."""
