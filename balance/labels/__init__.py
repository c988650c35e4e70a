"""Sensitive attributes and concepts of every sample: word lists, metadata fields, pictures, on one machine or many."""
