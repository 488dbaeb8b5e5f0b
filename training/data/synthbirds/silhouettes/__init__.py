"""Outlines of birds, by way of life; the table in `kinds.py` says which kind uses which."""
