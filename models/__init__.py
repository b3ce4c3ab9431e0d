"""What is learned, free of files and of HTTP. `models.card` needs no torch."""
