"""What everything may use, and what is nothing of E4T: files, checks, pictures, errors."""
