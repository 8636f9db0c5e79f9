"""Turns results of evaluations into tables, charts and a page for people to read."""
