"""What was measured, for people to read: tables, curves and pictures, from the lines that a sweep left."""
