"""Turns evaluation results into tables, charts and an HTML page."""
