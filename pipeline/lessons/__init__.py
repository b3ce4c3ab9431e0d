"""What belongs to the university unit alone."""
