"""Clients that people really use, each driven through the same story against a real relay."""
